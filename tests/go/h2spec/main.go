// Runs all of h2spec, the strict tests too, against a server: h2spec HOST PORT PATH. It exits with 1 if one of them fails.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: h2spec HOST PORT PATH")
		os.Exit(2)
	}
	port, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	passed, err := h2spec.Run(&config.Config{
		Host:         os.Args[1],
		Port:         port,
		Path:         os.Args[3],
		Timeout:      10 * time.Second,
		MaxHeaderLen: 4000,
		Strict:       true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}
