package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

func TestUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drover.sock")
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Volume(soon(t), "db")
	want := "cannot reach drover at unix://" + path + ": dial unix " + path + ": connect: no such file or directory (is `drover serve`, or this host's agent, running? see systemctl status 'drover*'" + (&remote{endpoint: "unix://" + path}).where() + ")"
	if dataset.KindOf(err) != dataset.ErrUnavailable || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	control := filepath.Join(filepath.Dir(path), "control.sock")
	werr := os.WriteFile(control, nil, 0o600)
	_, err = c.Volume(soon(t), "db")
	if hint := "(on this host control alone answers: set --api or DROVER_API to unix://" + control + ")"; werr != nil || err == nil || !strings.HasSuffix(err.Error(), hint) {
		t.Errorf("beside control: %v, %v", err, werr)
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
