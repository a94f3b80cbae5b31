// Package bench measures the server as its clients see it: its benchmark builds the real binary, starts it on loopback over real
// databases with up to a million agents, and prints rates, latencies and processor time per request, memory and the time to start,
// beside what the original reached on a like machine and the budgets that follow from it. It knows the server only as a process
// that speaks HTTP. The load comes from the same machine, so rates are floors; ratios within one run and processor time per
// request are what to compare. Run it with `go tool task bench`.
package bench
