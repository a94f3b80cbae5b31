package feed

import (
	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func init() { outboxLen = 512 }

// Parse reads a message.
func Parse(isText bool, b []byte) (list []egress.Record, spec *policy.Spec, err error) {
	m, err := parse(isText, b)
	if err != nil {
		return nil, nil, err
	}
	for i := range m.Records {
		list = append(list, m.Records[i].fromWire())
	}
	return list, m.Spec, nil
}
