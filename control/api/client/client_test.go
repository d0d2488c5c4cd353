package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
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

// A client asks for summaries. They have the same keys as whole items.
func TestSummaries(t *testing.T) {
	v := api.Volume{
		Dataset: dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 5, Labels: map[string]string{"a": "b"}},
		Node:    "alpha", PoolName: "fast", Status: &dataset.DatasetStatus{Used: new(dataset.Size(3))}, Snapshots: 2,
	}
	prefer := ""
	c, servers := some(t, 1)
	servers[0].answers(func(w http.ResponseWriter, r *http.Request) {
		prefer = r.Header.Get("Prefer")
		_ = json.NewEncoder(w).Encode(api.List[api.Volume]{Items: []api.Volume{v}, Next: "db"})
	})
	l, err := c.VolumeSummaries(t.Context(), api.Page{})
	if err != nil || l.Next != "db" || len(l.Items) != 1 {
		t.Fatalf("got %+v, %v", l, err)
	}
	if got, want := l.Items[0], v.Summary(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if prefer != "return=minimal" {
		t.Errorf("the request has Prefer %q", prefer)
	}
	if _, err := c.VolumeSummaries(t.Context(), api.Page{Health: true}); err != nil || prefer != "return=minimal, health" {
		t.Errorf("with the health of volumes, the request has Prefer %q, %v", prefer, err)
	}
}

// TestNewCall: parameters get to their places, and no name changes the path.
func TestNewCall(t *testing.T) {
	id := uuid.MustParse("11111111-2222-4333-8444-555555555555")
	volume := func(name string) call {
		return newCall(endpoint.GetVolume.Endpoint, endpoint.VolumeParam{Volume: name})
	}
	dropped := endpoint.DroppedAlias{VolumeParam: endpoint.VolumeParam{Volume: "{alias}"}, Alias: "a b/c?d%", Force: true}
	upload := endpoint.UploadParams{OperationIDParam: endpoint.OperationIDParam{Operation: id}, VolumeParam: endpoint.VolumeParam{Volume: "db"}, Options: []string{"a=1", "b=2"}}
	for _, c := range []struct {
		call        call
		path, query string
		body        any
	}{
		{volume("db"), "/v1/volumes/db", "", nil},
		{newCall(endpoint.DropAlias.Endpoint, dropped), "/v1/volumes/%7Balias%7D/aliases/a%20b%2Fc%3Fd%25", "force=true", nil},
		{newCall(endpoint.Renew.Endpoint, about(id, api.Renewal{})), "/v1/nodes/" + id.String() + "/renew", "", api.Renewal{}},
		{newCall(endpoint.ListNodes.Endpoint, endpoint.NodePage{Page: api.Page{After: "x", Limit: 5}, Filter: "a b"}), "/v1/nodes", "after=x&filter=a+b&limit=5", nil},
		{newCall(endpoint.UploadVolume.Endpoint, upload), "/v1/volumes/db/upload", "o=a%3D1&o=b%3D2&operation=" + id.String(), nil},
	} {
		if c.call.path != c.path || c.call.query.Encode() != c.query || !reflect.DeepEqual(c.call.body, c.body) || c.call.invalid != nil {
			t.Errorf("%s: %+v", c.path, c.call)
		}
	}
	for _, bad := range []string{"", ".", ".."} {
		if k := volume(bad); dataset.KindOf(k.invalid) != dataset.ErrInvalid {
			t.Errorf("%q: %v", bad, k.invalid)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon returns a context for calls that end soon.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
