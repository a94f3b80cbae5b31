package main_test

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// folded is what a client makes of events: the deltas of a part become the part, and the part replaces them. Texts that never
// became whole stand at the end of it.
func (s *server) folded(events []string) []string {
	s.t.Helper()
	var list []string
	open, order := map[string]string{}, []string{}
	last := int64(0)
	for _, raw := range events {
		var e struct {
			Seq    int64
			Type   string
			TurnID string `json:"turn_id"`
			Data   struct {
				PartID string `json:"part_id"`
				Offset int
				Text   string
			}
		}
		if err := json.Unmarshal([]byte(raw), &e); err != nil {
			s.t.Fatal(err)
		}
		if e.Seq <= last {
			s.t.Errorf("seq %d after %d", e.Seq, last)
		}
		last = e.Seq
		key := e.TurnID + " " + e.Data.PartID
		if e.Type == "message.delta" {
			if n := utf8.RuneCountInString(open[key]); n != e.Data.Offset {
				s.t.Errorf("seq %d has offset %d after %d code points", e.Seq, e.Data.Offset, n)
			}
			if open[key] == "" {
				order = append(order, key)
			}
			open[key] += e.Data.Text
			continue
		}
		if e.Type == "message.part" {
			delete(open, key)
		}
		list = append(list, raw)
	}
	for _, key := range order {
		if text, ok := open[key]; ok {
			list = append(list, fmt.Sprintf("%s %q", key, text))
		}
	}
	return list
}
