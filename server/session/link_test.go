package session_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/session"
)

func TestAnAnswerOfASandboxThatDoesNotEndIsNotReadForEver(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.keep(true)
		id := r.open(session.CreateParams{})
		b := r.rt.only()
		read := make(chan int, 1)
		b.flood = func(w http.ResponseWriter) {
			blanks, n := []byte(strings.Repeat(" ", 32<<10)), 0
			for n < 64<<20 {
				wrote, err := w.Write(blanks)
				if n += wrote; err != nil {
					break
				}
			}
			read <- n
		}
		r.rt.keep(false)
		if n := <-read; n > 16<<20 { // connections hold some
			t.Errorf("%d bytes of an answer were taken", n)
		}
		r.await(id, session.Ready) // it answered as it should the second time
	})
}
