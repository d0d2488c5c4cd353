package server

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// transports runs a test against the handlers of d, once in this process and once over a unix socket.
func transports(t *testing.T, d Deps, test func(*testing.T, *client.Client)) {
	t.Helper()
	t.Run("loopback", func(t *testing.T) {
		c := loopback.New(Handler(d))
		defer c.Close()
		test(t, c)
	})
	t.Run("socket", func(t *testing.T) {
		c, _ := overSocket(t, Handler(d))
		test(t, c)
	})
}

// overSocket serves h on a unix socket until the test ends.
func overSocket(t *testing.T, h http.Handler) (*client.Client, *http.Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := New(h)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := client.New("unix://" + path)
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return c, s
}

// soon returns a context for calls that end soon.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
