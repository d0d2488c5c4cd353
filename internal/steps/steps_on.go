//go:build steps

package steps

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var hits atomic.Int64

// At marks a step between two actions.
func At(name string) {
	want, nth, _ := strings.Cut(os.Getenv("DROVER_STEP"), ":")
	if want != name {
		return
	}
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		n = 1
	}
	if hits.Add(1) != n {
		return
	}
	do, file, _ := strings.Cut(os.Getenv("DROVER_STEP_DO"), ":")
	switch do {
	case "kill":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "hold":
		if os.WriteFile(file, nil, 0o600) != nil {
			return
		}
		for {
			if _, err := os.Stat(file); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
