package engine

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type object map[string]any

// serve starts a fake engine that knows the volume pgdata and some containers. It answers in the format of Docker's API
// 1.41.
func serve(t *testing.T, volume object, containers []object) {
	t.Helper()
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, "OK") })
	mux.HandleFunc("GET /v1.41/version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, object{"Platform": object{"Name": "Docker Engine"}, "Version": "29.1.0", "ApiVersion": "1.41"})
	})
	mux.HandleFunc("GET /v1.41/volumes/pgdata", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, volume) })
	mux.HandleFunc("GET /v1.41/volumes/broken", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 500, object{"message": "disk on fire"})
	})
	mux.HandleFunc("GET /v1.41/containers/json", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("all") || containers == nil {
			reply(w, 500, object{"message": "not asked for"})
			return
		}
		reply(w, 200, containers)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 404, object{"message": "get " + r.URL.Path + ": no such volume"})
	})
	sock := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", sock)
	require.NoError(t, err)
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	t.Setenv("DOCKER_HOST", "unix://"+sock)
}

func local(options object) object {
	return object{"Name": "pgdata", "Driver": "local", "Mountpoint": "/var/lib/docker/volumes/pgdata/_data", "Options": options}
}

func using(name string, mounts ...object) object {
	return object{"Id": "0123456789abcdef", "Names": []string{"/web/db", "/" + name}, "State": "running", "Mounts": mounts}
}

func TestPath(t *testing.T) {
	vol := object{"Type": "volume", "Name": "pgdata", "Source": "", "Destination": "/data"}
	bind := func(src string) object { return object{"Type": "bind", "Source": src, "Destination": "/data"} }
	none := []object{using("other", object{"Type": "volume", "Name": "x", "Source": "/var/lib/docker/volumes/x/_data"}, bind("/var/lib/docker/volumes/pgdata2"))}
	tests := map[string]struct {
		ask        string
		volume     object
		containers []object // nil: must not be requested
		live       bool
		want       string
		kind       error
		says       []string
	}{
		"a local volume":     {volume: local(nil), containers: none, want: "/var/lib/docker/volumes/pgdata/_data"},
		"with a quota":       {volume: local(object{"o": "size=10G"}), containers: none, want: "/var/lib/docker/volumes/pgdata/_data"},
		"a bind":             {volume: local(object{"type": "none", "o": "rw,bind", "device": "/srv/pg/"}), containers: none, want: "/srv/pg"},
		"nothing there":      {ask: "pgdatx", volume: local(nil), kind: dataset.ErrNotFound, says: []string{`"pgdatx"`, "docker volume ls"}},
		"another path":       {ask: "x/../pgdata", volume: local(nil), kind: dataset.ErrNotFound, says: []string{"x/../pgdata"}},
		"the engine fails":   {ask: "broken", volume: local(nil), kind: dataset.ErrUnavailable, says: []string{"disk on fire"}},
		"another driver":     {volume: object{"Name": "pgdata", "Driver": "rexray", "Mountpoint": "/x"}, kind: dataset.ErrUnsupported, says: []string{`"rexray"`, "--from -"}},
		"nfs":                {volume: local(object{"type": "nfs", "o": "addr=10.0.0.1", "device": ":/x"}), kind: dataset.ErrUnsupported, says: []string{`":/x"`, `"nfs"`, "--from PATH"}},
		"a bind of nothing":  {volume: local(object{"type": "none", "o": "bind"}), kind: dataset.ErrUnsupported, says: []string{"is not absolute"}},
		"list fails":         {volume: local(nil), kind: dataset.ErrUnavailable, says: []string{"the containers"}},
		"used":               {volume: local(nil), containers: []object{using("web", vol), using("db", vol), none[0]}, kind: dataset.ErrInUse, says: []string{"db, web", "--live"}},
		"used by its folder": {volume: local(nil), containers: []object{using("db", bind("/var/lib/docker/volumes/pgdata/_data/sub"))}, kind: dataset.ErrInUse, says: []string{"db"}},
		"used by a parent":   {volume: local(nil), containers: []object{using("db", bind("/var/lib/docker"))}, kind: dataset.ErrInUse, says: []string{"db"}},
		"used, but live":     {volume: local(nil), live: true, want: "/var/lib/docker/volumes/pgdata/_data"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			serve(t, tc.volume, tc.containers)
			c, err := Open()
			require.NoError(t, err)
			defer c.Close()
			if tc.ask == "" {
				tc.ask = "pgdata"
			}
			got, err := Path(t.Context(), c, tc.ask, tc.live)
			if got != tc.want || !errors.Is(err, tc.kind) || (err == nil) != (tc.kind == nil) {
				t.Fatalf("got %q, %v; want %q, %v", got, err, tc.want, tc.kind)
			}
			for _, s := range tc.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}

func TestNoEngine(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
	c, err := Open()
	require.NoError(t, err)
	defer c.Close()
	if _, err := Path(t.Context(), c, "pgdata", false); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheEngineOfThisHost(t *testing.T) {
	for host, kind := range map[string]error{
		"tcp://10.0.0.1:2375": dataset.ErrUnsupported, "tcp://127.0.0.1:2375": dataset.ErrUnsupported, "nonsense": dataset.ErrInvalid,
	} {
		t.Setenv("DOCKER_HOST", host)
		if _, err := Open(); !errors.Is(err, kind) || !strings.Contains(err.Error(), "DOCKER_HOST") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestAContainerWithoutAName(t *testing.T) {
	if got := label(nil, "0123"); got != "0123" {
		t.Errorf("got %q", got)
	}
}

// TestNames: a container is known by its own name, not by the name under which another one links to it.
func TestNames(t *testing.T) {
	serve(t, nil, []object{
		{"Id": "1a", "Names": []string{"/db/alias", "/web"}}, {"Id": "2b", "Names": []string{}}, {"Id": "3c", "Names": []string{"/db"}},
	})
	c, err := Open()
	require.NoError(t, err)
	defer c.Close()
	if got, err := Names(t.Context(), c); err != nil || !maps.Equal(got, map[string]string{"1a": "web", "3c": "db"}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestNamesOfFailingEngine(t *testing.T) {
	serve(t, nil, nil)
	c, err := Open()
	require.NoError(t, err)
	defer c.Close()
	if _, err := Names(t.Context(), c); !errors.Is(err, dataset.ErrUnavailable) {
		t.Error(err)
	}
}

// TestVersion: the engine says its name and version. Without an engine, the error says what was asked.
func TestVersion(t *testing.T) {
	serve(t, nil, nil)
	version := func() (string, error) {
		c, err := Open()
		require.NoError(t, err)
		defer c.Close()
		return Version(t.Context(), c)
	}
	if got, err := version(); err != nil || got != "Docker Engine 29.1.0, API 1.41" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("DOCKER_HOST", "unix://"+t.TempDir()+"/none")
	if _, err := version(); !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), "version") {
		t.Error(err)
	}
}
