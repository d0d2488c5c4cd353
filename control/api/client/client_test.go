package client

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func TestUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drover.sock")
	c, err := New("unix://" + path)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Volume(soon(t), "db")
	want := "cannot reach drover at unix://" + path + ": no such file or directory (see systemctl status 'drover*' or run drover serve" + (&remote{endpoint: "unix://" + path}).where() + ")"
	if dataset.KindOf(err) != dataset.ErrUnavailable || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	control := filepath.Join(filepath.Dir(path), "control.sock")
	werr := os.WriteFile(control, nil, 0o600)
	_, err = c.Volume(soon(t), "db")
	if hint := "(this host runs only control: --api unix://" + control + ")"; werr != nil || err == nil || !strings.HasSuffix(err.Error(), hint) {
		t.Errorf("beside control: %v, %v", err, werr)
	}
}

// TestUnreachableIsShort checks that the error about a server that does not run fits on a line.
func TestUnreachableIsShort(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, s := range []*remote{
		{endpoint: "unix://" + defaultSocket},
		{endpoint: "https://control-1.example.org:4440", base: "https://control-1.example.org:4440"},
		{endpoint: "http://127.0.0.1:4440", base: "http://127.0.0.1:4440"},
	} {
		err := s.failed(t.Context(), call{}, brokenOffError{refused})
		if text := err.Error(); len(text) > 150 || !strings.Contains(text, "connection refused (") || !strings.Contains(text, "systemctl status") {
			t.Errorf("%d characters: %s", len(text), text)
		}
		if !neverSent(err) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("lost its cause: %v", err)
		}
	}
}

// The error about an address names the address that is probably meant.
func TestBadEndpointHints(t *testing.T) {
	for bad, hint := range map[string]string{
		"/run/x.sock":   "; for this socket: unix:///run/x.sock",
		"tcp://host:1":  "; for this host: https://host:1",
		"10.0.0.1:4440": "; for this host: https://10.0.0.1:4440",
		"localhost":     "https://HOST:PORT",
	} {
		if _, err := New(bad); err == nil || !strings.HasSuffix(err.Error(), hint) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, good := range []string{"unix:///run/drover/drover.sock", "unix:///a b#c?d", "http://host", "http://host:80/prefix/", "https://[::1]:443"} {
		c, err := New(good)
		if err != nil {
			t.Errorf("%s: %v", good, err)
			continue
		}
		c.Close()
	}
	for _, bad := range []string{"", "/run/drover.sock", "unix://run/drover.sock", "tcp://host:1", "http://", "http://u:secret@host", "http://h?x", "%"} {
		if _, err := New(bad); dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
