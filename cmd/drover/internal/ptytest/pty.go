// Package ptytest provides tests with a pseudo-terminal. Only tests call it. A [Terminal] is not safe for concurrent
// use. It has a goroutine that collects the output of the program, and a mutex protects that output.
package ptytest

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

// Terminal is a pseudo-terminal of 80 columns (pty(7), ioctl_tty(2)). The program under test uses File as its terminal:
// Screen returns the output of the program, and Type sends text to it. Not safe for concurrent use.
type Terminal struct {
	File   *os.File
	master *os.File
	ended  chan struct{} // closed when File is closed and screen is complete

	mu     sync.Mutex
	screen bytes.Buffer // protected by mu
}

// Open makes a terminal that exists until the test ends.
func Open(t testing.TB) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	p := &Terminal{master: master, ended: make(chan struct{})}
	t.Cleanup(func() {
		p.Screen()
		_ = master.Close()
	})
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	if p.File, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	p.Resize(t, 80, 25)
	go func() {
		defer close(p.ended)
		for b := make([]byte, 4096); ; {
			n, err := master.Read(b)
			p.mu.Lock()
			p.screen.Write(b[:n])
			p.mu.Unlock()
			if err != nil { // EIO when File is closed
				return
			}
		}
	}()
	return p
}

// Await waits until all the texts were written to File.
func (p *Terminal) Await(t testing.TB, texts ...string) {
	t.Helper()
	const limit = time.Minute
	missing := func(text string) bool { return !strings.Contains(p.text(), text) }
	for end := time.Now().Add(limit); slices.ContainsFunc(texts, missing); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not all of %q were written within %s: %q", texts, limit, p.text())
		}
	}
}

func (p *Terminal) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.screen.String()
}

// Resize sets the size that the terminal reports.
func (p *Terminal) Resize(t testing.TB, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(p.File.Fd()), unix.TIOCSWINSZ,
		&unix.Winsize{Row: height, Col: width}); err != nil {
		t.Fatal(err)
	}
}

// Type sends text to the terminal, as if a person had typed it.
func (p *Terminal) Type(t testing.TB, s string) {
	t.Helper()
	_, err := p.master.WriteString(s)
	require.NoError(t, err)
}

// Screen closes File and returns all text that was written to it, including the typed text, because a
// terminal echoes that. A second call returns nothing.
func (p *Terminal) Screen() string {
	if p.File == nil {
		return ""
	}
	_ = p.File.Close()
	p.File = nil
	<-p.ended
	return p.text()
}
