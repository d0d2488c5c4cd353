package consul

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// Server is one Consul server. Its folder stays when its process ends.
type Server struct {
	Name string
	IP   string
	On   *lan.Machine // nil: this one

	tb      testing.TB
	cluster *Cluster
	binary  string
	dir     string

	mu     sync.Mutex
	proc   *child.Process
	paused bool
}

func (s *Server) writeConfig(cfg map[string]any) {
	s.tb.Helper()
	require.NoError(s.tb, os.WriteFile(filepath.Join(s.dir, "consul.json"), encode(cfg), 0o600))
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// Start starts the server and returns when it serves its API. There may be no leader yet.
func (s *Server) Start() {
	s.tb.Helper()
	serves := make(chan struct{})
	open := true
	args := []string{s.binary, "agent", "-config-file", filepath.Join(s.dir, "consul.json")}
	if s.On != nil {
		args = s.On.Command(args...)
	}
	p, err := child.Start(child.Spec{Args: args, Log: s.logFile(), Dir: s.dir, Line: func(line string) {
		if open && strings.Contains(line, "Starting server: address=") {
			open = false
			close(serves)
		}
	}})
	require.NoError(s.tb, err)
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	select {
	case <-serves:
	case <-p.Done():
		s.tb.Fatalf("%s ended as it started", s.Name)
	case <-time.After(patience):
		s.tb.Fatalf("%s does not serve within %s", s.Name, patience)
	}
}

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.Running() && !s.paused
}

// Kill ends the process as a crash of the host would, and waits for its end.
func (s *Server) Kill() { s.end(unix.SIGKILL) }

// Stop asks the process to end, and waits for its end.
func (s *Server) Stop() { s.end(unix.SIGTERM) }

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	p := s.proc
	s.proc = nil
	s.mu.Unlock()
	if p == nil {
		return
	}
	assert.NoErrorf(s.tb, p.Signal(sig), "signal consul")
	<-p.Done()
}

// Pause suspends the process: connections to it stay open, but it does not answer. Idempotent.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.paused {
		return
	}
	s.paused = true
	assert.NoErrorf(s.tb, s.proc.Pause(), "pause consul")
}

// Resume resumes the process.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = false
	if s.proc == nil {
		return
	}
	assert.NoErrorf(s.tb, s.proc.Signal(unix.SIGCONT), "resume consul")
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
