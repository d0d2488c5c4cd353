package consul

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Server is one Consul server. Its folder outlives its process.
type Server struct {
	Name string
	IP   string

	tb     testing.TB
	binary string
	dir    string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	held bool
}

func (s *Server) writeConfig(cfg map[string]any) {
	s.tb.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "consul.json"), encode(cfg), 0o600); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// Start starts the server and returns when it serves its API; a leader there may
// not be yet.
func (s *Server) Start() {
	s.tb.Helper()
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	cmd := exec.Command(s.binary, "agent", "-config-file", filepath.Join(s.dir, "consul.json"))
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	cmd.Stderr = log
	done, started, serves := make(chan struct{}), make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		defer log.Close()
		// The kernel sends the death signal when the thread ends, not the process
		// (prctl(2)): this one stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		copyLog(log, out, serves)
		cmd.Wait() //nolint:errcheck // it was killed, or its log says why it ended
	}()
	if err := <-started; err != nil {
		s.tb.Fatal("start consul:", err)
	}
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	select {
	case <-serves:
	case <-done:
		s.tb.Fatalf("%s ended as it started", s.Name)
	case <-time.After(patience):
		s.tb.Fatalf("%s does not serve within %s", s.Name, patience)
	}
}

// copyLog copies what the server says to its log until it ends, and closes serves
// when it says that it serves.
func copyLog(log io.Writer, out io.Reader, serves chan struct{}) {
	open := true
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		fmt.Fprint(log, line)
		if open && strings.Contains(line, "Starting server: address=") {
			open = false
			close(serves)
		}
		if err != nil {
			return
		}
	}
}

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && !s.held
}

// Kill ends the process as a crash of the host would, and waits for that.
func (s *Server) Kill() { s.end(unix.SIGKILL) }

// Stop has the process end in order.
func (s *Server) Stop() { s.end(unix.SIGTERM) }

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Error("signal consul:", err)
	}
	<-done
}

// Pause freezes the process: connections to it stay open and say nothing.
func (s *Server) Pause() { s.freeze(unix.SIGSTOP, true) }

// Resume lets it go on.
func (s *Server) Resume() { s.freeze(unix.SIGCONT, false) }

func (s *Server) freeze(sig syscall.Signal, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Error("signal consul:", err)
	}
}

func (s *Server) showLog() {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		s.tb.Log(err)
		return
	}
	const most = 6 << 10
	if len(b) > most {
		b = b[len(b)-most:]
	}
	s.tb.Logf("%s (%s) logged:\n%s", s.Name, s.IP, b)
}

// binary builds Consul, once a machine, and returns where it is.
func binary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("tests run inside of the repository")
		}
		dir = up
	}
	cmd := exec.Command(filepath.Join(dir, "scripts", "tools.sh"), "consul")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("scripts/tools.sh consul: %w", err)
	}
	return string(bytes.TrimSpace(out)), nil
}
