// Package ptytest provides tests with a pseudo-terminal. Only tests call it. A [Terminal] is not safe for concurrent
// use.
package ptytest

import (
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal is a pseudo-terminal of 80 columns (pty(7), ioctl_tty(2)). The output of the program under test to
// File reaches Screen; the program reads from File the text that the test writes with Type. Not safe for
// concurrent use.
type Terminal struct {
	File   *os.File
	master *os.File
	screen chan string
}

// Open makes a terminal that exists until the test ends.
func Open(t testing.TB) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &Terminal{master: master, screen: make(chan string, 1)}
	t.Cleanup(func() {
		p.Screen()
		_ = master.Close()
	})
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if p.File, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	p.Resize(t, 80, 25)
	go func() {
		b, _ := io.ReadAll(master) // ends with EIO when File is closed
		p.screen <- string(b)
	}()
	return p
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
	if _, err := p.master.WriteString(s); err != nil {
		t.Fatal(err)
	}
}

// Screen closes File and returns all text that was written to it, including the typed text, because a
// terminal echoes that. A second call returns nothing.
func (p *Terminal) Screen() string {
	if p.File == nil {
		return ""
	}
	_ = p.File.Close()
	p.File = nil
	return <-p.screen
}
