package feed

import (
	"slices"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
)

const (
	ringLen  = 256   // decisions of one attempt that are kept
	ringsMax = 32768 // of all; then those of the attempt that was silent for longest go
)

// rings are the last decisions by attempt. Its owner guards it.
type rings struct {
	of    map[egress.Key][]kept
	order []egress.Key // longest silent first
	total int
}

type kept struct {
	replica string
	egress.Record
}

// put adds a decision, or replaces what was known of it.
func (r *rings) put(replica string, rec egress.Record) {
	list := r.of[rec.Key]
	for i := len(list) - 1; i >= 0; i-- {
		if k := &list[i]; k.replica == replica && k.ID == rec.ID {
			if k.Open || !rec.Open { // a repetition does not open again what has ended
				k.Record = rec
			}
			return
		}
	}
	if len(list) == ringLen {
		list = slices.Delete(list, 0, 1)
		r.total--
	}
	r.of[rec.Key] = append(list, kept{replica, rec})
	r.total++
	r.touch(rec.Key)
	for r.total > ringsMax {
		r.total -= len(r.of[r.order[0]])
		delete(r.of, r.order[0])
		r.order = r.order[1:]
	}
}

// progress replaces what is known of a connection that is open.
func (r *rings) progress(replica string, rec egress.Record) {
	for i, k := range r.of[rec.Key] {
		if k.replica == replica && k.ID == rec.ID && k.Open {
			r.of[rec.Key][i].Record = rec
		}
	}
}

func (r *rings) touch(key egress.Key) {
	if n := len(r.order); n > 0 && r.order[n-1] == key {
		return
	}
	if i := slices.Index(r.order, key); i >= 0 {
		r.order = slices.Delete(r.order, i, i+1)
	}
	r.order = append(r.order, key)
}

// get returns what is known of an attempt, oldest first.
func (r *rings) get(key egress.Key) []egress.Record {
	list := make([]egress.Record, len(r.of[key]))
	for i, k := range r.of[key] {
		list[i] = k.Record
	}
	slices.SortStableFunc(list, func(a, b egress.Record) int { return a.Time.Compare(b.Time) })
	return list
}

// closed marks connections as ended of which nothing more will be heard: those of an attempt that ended, or of a replica that is gone.
func (r *rings) closed(is func(key egress.Key, replica string) bool) {
	for key, list := range r.of {
		for i := range list {
			if list[i].Open && is(key, list[i].replica) {
				list[i].Open = false
			}
		}
	}
}
