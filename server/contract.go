package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/server/contract"
)

var errContract = errors.New("the deployment does not keep the contract")

// checkContract runs the contract tests against a deployment.
func checkContract(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("contract", flag.ContinueOnError)
	flags.SetOutput(stderr)
	o := contract.Options{}
	flags.StringVar(&o.URL, "url", variable(environ, "LAP_URL"), "`URL` of the deployment; default: LAP_URL")
	flags.StringVar(&o.Key, "key", "", "master key; default: LAP_KEY, which other users of this machine cannot see")
	flags.IntVar(&o.Requests, "requests", 2000, "`number` of requests")
	flags.Uint64Var(&o.Seed, "seed", rand.Uint64()>>32, "which requests; default: random")
	flags.BoolVar(&o.Sessions, "sessions", false, "open sessions and send messages too: starts sandboxes and asks the model")
	junit := flags.String("junit", "", "`file` for a JUnit report")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.Key == "" {
		o.Key = variable(environ, "LAP_KEY")
	}
	if flags.NArg() > 0 || o.URL == "" || o.Key == "" || o.Requests < 1 {
		return errors.New("--url and --key, or LAP_URL and LAP_KEY, must be set, and --requests be at least 1; see lap contract --help")
	}
	report, err := contract.Run(ctx, o)
	if report == nil {
		return err
	}
	if *junit != "" {
		err = errors.Join(err, writeJUnit(*junit, report))
	}
	for _, c := range report.Cases {
		if c.Faults > 0 {
			fmt.Fprintf(stdout, "%s, %s: %d of %d answers are wrong\n%s\n\n", c.Operation, c.Kind, c.Faults, c.Requests, strings.Join(c.Wrong, "\n\n"))
		}
	}
	fmt.Fprintf(stdout, "%d requests of %d kinds in %v, seed %d: %d wrong\n",
		report.Requests(), len(report.Cases), report.Took.Round(time.Millisecond), report.Seed, report.Faults())
	if report.Faults() > 0 {
		err = errors.Join(err, errContract)
	}
	return err
}

func writeJUnit(path string, report *contract.Report) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return report.JUnit(f)
}

// variable returns the value of an environment variable.
func variable(environ []string, name string) string {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}
