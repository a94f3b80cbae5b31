package sandbox_test

import (
	"testing"
	"time"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/sandbox"
)

func FuzzSignedClaimsHoldForTheirAudienceAndTimeOnly(f *testing.F) {
	f.Add("box-1", "box-1", int64(1000), int64(1060), int64(1030))
	f.Add("box-1", "box-2", int64(1000), int64(1060), int64(1030))
	f.Add("", "", int64(1000), int64(1060), int64(1030))
	f.Add("b", "b", int64(1000), int64(1060), int64(1090))
	f.Add("b", "b", int64(1000), int64(1060), int64(1089))
	f.Add("b", "b", int64(1000), int64(1060), int64(970))
	f.Add("b", "b", int64(1000), int64(1060), int64(969))
	f.Add("b", "b", int64(1000), int64(1000), int64(1000))
	f.Fuzz(func(t *testing.T, aud, asked string, issued, expires, now int64) {
		if !utf8.ValidString(aud) {
			return // no id of a sandbox; JSON would change it
		}
		const long = 1 << 40 // far from where times overflow
		for _, n := range []int64{issued, expires, now} {
			if n > long || n < -long {
				return
			}
		}
		token := sandbox.SignToken(tokenKey, sandbox.Claims{Audience: sandbox.ID(aud), IssuedAt: time.Unix(issued, 0), Expires: time.Unix(expires, 0)})
		err := sandbox.VerifyToken(tokenPub, token, sandbox.ID(asked), time.Unix(now, 0))
		want := aud == asked && aud != "" && expires > issued && now+30 >= issued && now-30 < expires && len(token) <= 1024
		if want != (err == nil) {
			t.Errorf("%q asked as %q, %d to %d at %d: %v", aud, asked, issued, expires, now, err)
		}
	})
}
