// Package feed is what the server and the replicas of `lap egress` say to each other. Each replica keeps one stream to each server:
// policies by hash, attempts and their ends come in, decisions go out. Hub is the server's side and Replica the other; the first
// knows no proxy, and the second no database.
//
// The stream is a WebSocket at Path of the server's internal listener, whose client presents the shared secret as bearer token. Each
// message is one JSON object with a type.
//
//	replica: hello      protocol, replica, told: which process this is, and up to which decision a leader has told of them
//	replica: holds      attempts that it lets through, so that it is told which of them ended while it heard nothing
//	replica: decisions  records, in their order, each with its number; lost: how many before them it no longer has; again: from
//	                    here on they are what comes after the last that was told of
//	replica: progress   records that the server has of connections that are open, with the bytes that passed meanwhile
//	server:  hello      protocol, key, have: whose credentials count, and up to which decision it has them
//	server:  policy     hash, spec: before the first attempt on this stream that has it
//	server:  open       session, attempt, hash, installing, source: let this attempt through, and no earlier one
//	server:  end        session, attempt: let neither this attempt through nor one before it, and close their connections
//	server:  told       told: events were made of decisions up to this one; only the server that leads says so
//	server:  lead       this server leads now; repeat the decisions that none has told of
//
// What the server says is the state and no history: after a new hello it says all of it again. While there is no stream a replica
// goes on with what it has, until the credentials of its sandboxes expire, for nobody renews them.
package feed

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// Path is where a server takes streams.
const Path = "/v1/egress"

const (
	protocol     = 1
	maxMessage   = 1 << 20
	maxRecords   = 256 // of one message
	maxHolds     = 1000
	helloWithin  = 10 * time.Second
	writeWithin  = 10 * time.Second
	pingEvery    = 10 * time.Second
	tellEvery    = 5 * time.Second // of connections that are open
	maxMethod    = 32
	maxHost      = 300
	maxEntry     = 400
	maxReason    = 400
	maxReplicaID = 64
)

// message is any of them; what a type does not have is absent.
type message struct {
	Type       string       `json:"type"`
	Protocol   int          `json:"protocol,omitempty"`
	Replica    string       `json:"replica,omitempty"`
	Told       uint64       `json:"told,omitempty"`
	Have       uint64       `json:"have,omitempty"`
	Key        []byte       `json:"key,omitempty"`
	Hash       string       `json:"hash,omitempty"`
	Spec       *policy.Spec `json:"spec,omitempty"`
	Session    string       `json:"session,omitempty"`
	Attempt    int          `json:"attempt,omitempty"`
	Installing bool         `json:"installing,omitempty"`
	Source     *netip.Addr  `json:"source,omitempty"`
	Holds      []hold       `json:"holds,omitempty"`
	Records    []record     `json:"records,omitempty"`
	Lost       uint64       `json:"lost,omitempty"`
	Again      bool         `json:"again,omitempty"`
}

const (
	typeHello     = "hello"
	typeHolds     = "holds"
	typeDecisions = "decisions"
	typeProgress  = "progress"
	typePolicy    = "policy"
	typeOpen      = "open"
	typeEnd       = "end"
	typeTold      = "told"
	typeLead      = "lead"
)

type hold struct {
	Session string `json:"session"`
	Attempt int    `json:"attempt"`
}

// record is an egress.Record with the number of its place among all of its replica.
type record struct {
	Number   uint64          `json:"number"`
	ID       uint64          `json:"id"`
	Session  string          `json:"session"`
	Attempt  int             `json:"attempt"`
	Time     time.Time       `json:"time"`
	Method   string          `json:"method"`
	Host     string          `json:"host"`
	Port     uint16          `json:"port"`
	Addr     netip.Addr      `json:"addr"`
	Decision policy.Decision `json:"decision"`
	Failure  string          `json:"failure,omitempty"`
	Sent     int64           `json:"sent,omitempty"`
	Received int64           `json:"received,omitempty"`
	Open     bool            `json:"open,omitempty"`
}

// toWire shortens what a sandbox chose the length of.
func toWire(number uint64, r egress.Record) record {
	d := r.Decision
	d.Entry, d.Reason = clip(d.Entry, maxEntry), clip(d.Reason, maxReason)
	return record{
		Number: number, ID: r.ID, Session: r.Session, Attempt: r.Attempt, Time: r.Time, Method: clip(r.Method, maxMethod), Host: clip(r.Host, maxHost),
		Port: r.Port, Addr: r.Addr, Decision: d, Failure: r.Failure, Sent: r.Sent, Received: r.Received, Open: r.Open,
	}
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

func (r *record) fromWire() egress.Record {
	return egress.Record{
		ID: r.ID, Key: egress.Key{Session: r.Session, Attempt: r.Attempt}, Time: r.Time, Method: r.Method, Host: r.Host, Port: r.Port,
		Addr: r.Addr, Decision: r.Decision, Failure: r.Failure, Sent: r.Sent, Received: r.Received, Open: r.Open,
	}
}

// isSound tells whether a record is of the size that real ones have.
func (r *record) isSound() bool {
	d := &r.Decision
	return r.Number > 0 && isName(r.Session) && r.Attempt >= 0 && len(r.Method) <= maxMethod && len(r.Host) <= maxHost && len(r.Failure) <= maxHost &&
		len(d.Rule) <= maxHost && len(d.Entry) <= maxEntry && len(d.Reason) <= maxReason && r.Sent >= 0 && r.Received >= 0
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != "" && len(s) <= maxReplicaID
}

var errMessage = errors.New("feed: a message that the protocol does not have")

func read(ctx context.Context, c *websocket.Conn) (m message, err error) {
	kind, text, err := c.Read(ctx)
	if err != nil {
		return m, err
	}
	return parse(kind == websocket.MessageText, text)
}

func parse(isText bool, text []byte) (m message, err error) {
	if !isText || json.Unmarshal(text, &m) != nil || len(m.Records) > maxRecords || len(m.Holds) > maxHolds {
		return message{}, errMessage
	}
	for i := range m.Records {
		if !m.Records[i].isSound() {
			return message{}, errMessage
		}
	}
	for _, h := range m.Holds {
		if !isName(h.Session) || h.Attempt < 0 {
			return message{}, errMessage
		}
	}
	return m, nil
}

func write(ctx context.Context, c *websocket.Conn, m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	return c.Write(ctx, websocket.MessageText, text)
}

// keepAlive ends with an error when the other side no longer answers.
func keepAlive(ctx context.Context, c *websocket.Conn) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		ping, cancel := context.WithTimeout(ctx, writeWithin)
		err := c.Ping(ping)
		cancel()
		if err != nil {
			return err
		}
	}
}
