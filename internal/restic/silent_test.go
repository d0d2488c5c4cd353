package restic_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A run on a server that accepts connections and says nothing is ended, and the error says so.
func TestSilentServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close() // the kernel accepts the connections
	o := options(t)
	o.URL, o.StallLimit = "rest:http://"+silent.Addr().String()+"/", 2*time.Second
	var told error
	o.Ended = func(err error) { told = err }
	_, err = open(t, o).Backups(t.Context())
	want := "repository " + o.URL + ": it does not answer: restic neither received nor sent anything for 2s, and was ended"
	if !errors.Is(err, dataset.ErrOffline) || !strings.HasPrefix(err.Error(), want) || !errors.Is(told, dataset.ErrOffline) {
		t.Errorf("got %v, reported %v, want %s", err, told, want)
	}
}

// Lines about the progress are no progress. A run that reads is not ended, although it takes longer than the limit.
func TestProgress(t *testing.T) {
	for script, stalls := range map[string]bool{
		"echo $line; echo $line >&2":             true,
		"while read other; do :; done <$0.input": false,
	} {
		program := filepath.Join(t.TempDir(), "restic")
		line := strings.Repeat("x", 1000) + "\n"
		write(t, program+".input", strings.Repeat(line, 20))
		require.NoError(t, os.WriteFile(program, []byte(`#!/bin/bash
if [ "$1" = version ]; then echo restic 0.14.0; exit; fi
read line <$0.input
mkfifo $0.fifo
exec 3<>$0.fifo # what a program sleep reads would count
for i in {1..30}; do read -t 0.1 -u 3; `+script+`; done
true
`), 0o700))
		t.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
		o := options(t)
		o.StallLimit = time.Second
		err := open(t, o).Restore(t.Context(), "12345678", t.TempDir())
		if stalled := errors.Is(err, dataset.ErrOffline); stalled != stalls || err != nil != stalls {
			t.Errorf("%s: got %v, want it ended: %t", script, err, stalls)
		}
	}
}
