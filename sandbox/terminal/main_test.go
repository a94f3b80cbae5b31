package terminal_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also the program in the terminal.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "program" {
		if err := program(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// program does what the tests of a terminal need of a program.
func program(verb string, args []string) error {
	switch verb {
	case "burst": // 64 KiB for each line that is typed, until END
		in := bufio.NewScanner(os.Stdin)
		line := strings.Repeat("0123456789abcdef", 4) + "\r\n"
		for in.Scan() {
			if in.Text() == "END" {
				break
			}
			if _, err := io.WriteString(os.Stdout, strings.Repeat(line, 64<<10/len(line))+"\r\nburst "+in.Text()+".\r\n"); err != nil {
				return err
			}
		}
		return in.Err()
	}
	return fmt.Errorf("what is %q?", verb)
}
