package local

import "time"

// SetTermTime shortens how long sandboxd has to end by itself; call it before there are sandboxes.
func (r *Runtime) SetTermTime(d time.Duration) { r.termTime = d }
