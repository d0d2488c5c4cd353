package product

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/host"
)

// answer is the plugin's answer to one request.
type answer struct {
	Status     int
	Err        string
	Mountpoint string
	Volume     *struct {
		Name, Mountpoint string
		Status           map[string]any
	}
	Volumes []struct{ Name, Mountpoint string }
}

// request is the body of all calls. Each call reads the fields that it needs.
type request struct {
	Name string            `json:",omitempty"`
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

// ask sends one request to the plugin's socket, as the engine would.
func ask(t testing.TB, h *host.Host, call string, req request) answer {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, h, call, body)
}

func send(t testing.TB, h *host.Host, call string, body []byte) (a answer) {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.Socket())
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	resp, err := client.Post("http://plugin/VolumeDriver."+call, "", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("%s: %v in %s", call, err, text)
	}
	a.Status = resp.StatusCode
	return a
}

// uses returns the uses of a volume by mount ID, as reported by Get.
func usesOf(t testing.TB, h *host.Host, name string) map[string]int {
	t.Helper()
	a := ask(t, h, "Get", request{Name: name})
	if a.Volume == nil {
		t.Fatalf("Get %s: %+v", name, a)
	}
	uses := map[string]int{}
	for _, m := range a.Volume.Status["mounts"].([]any) {
		m := m.(map[string]any)
		uses[m["id"].(string)] = int(m["count"].(float64))
	}
	if mounted := a.Volume.Status["mounted"].(bool); mounted != (len(uses) > 0) || mounted != isMounted(t, a.Volume.Mountpoint) {
		t.Errorf("volume %s with uses %v is mounted: %t", name, uses, mounted)
	}
	return uses
}

func isMounted(t testing.TB, path string) bool {
	t.Helper()
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	return table.At(path) != nil
}

// TestB11: whatever the wrong order of mounts and unmounts is, the answer is what the engine needs, and no count
// becomes wrong.
func TestB11(t *testing.T) {
	h := host.Start(t, host.Options{})
	if a := ask(t, h, "Create", request{Name: "db@gold"}); a.Err != "" {
		t.Fatal(a.Err)
	}
	point := ask(t, h, "Get", request{Name: "db@gold"}).Volume.Mountpoint
	steps := []struct {
		call, name, id string
		err            string // empty: no error
		uses           map[string]int
	}{
		{"Unmount", "db@gold", "one", "", nil}, // a volume that is not mounted
		{"Unmount", "nothing", "one", "", nil}, // a volume that does not exist
		{"Unmount", "../..", "one", "", nil},   // an impossible name
		{"Mount", "db@gold", strings.Repeat("i", 257), "drover: mount of db@gold: its ID has 257 bytes (256 at most)", nil},
		{"Mount", "db@gold", "", "", map[string]int{"": 1}}, // from orchestrators without IDs
		{"Mount", "db@gold", "", "", map[string]int{"": 2}},
		{"Unmount", "db@gold", "", "", map[string]int{"": 1}},
		{"Remove", "db@gold", "", "drover: cannot remove volume db: it is mounted by (no ID) on node host-a (stop its containers first)", map[string]int{"": 1}},
		{"Unmount", "db@gold", "", "", nil},
		{"Mount", "nothing", "one", `drover: no such volume: "nothing" (drover volume ls lists the volumes)`, nil},
		{"Unmount", "nothing", "one", "", nil}, // after a failed Mount
		{"Mount", "db@gold", "one", "", map[string]int{"one": 1}},
		{"Mount", "db@gold", "", "", map[string]int{"one": 1, "": 1}},
		{"Unmount", "db@gold", "", "", map[string]int{"one": 1}},
		{"Unmount", "db@gold", "", "", map[string]int{"one": 1}},
		{"Unmount", "db@gold", "two", "", map[string]int{"one": 1}}, // an unknown ID
		{"Mount", "db@gold", "one", "", map[string]int{"one": 2}},   // by docker cp
		{"Mount", "db", "two", "", map[string]int{"one": 2, "two": 1}},
		{"Unmount", "db", "one", "", map[string]int{"one": 1, "two": 1}},
		{"Unmount", "db@gold", "two", "", map[string]int{"one": 1}},
		{"Unmount", "db@gold", "two", "", map[string]int{"one": 1}}, // a second time
		{"Remove", "db@gold", "", "drover: cannot remove volume db: it is mounted by one on node host-a (stop its containers first)", map[string]int{"one": 1}},
		{"Unmount", "db@gold", "one", "", nil},
		{"Unmount", "db@gold", "one", "", nil},
	}
	for i, s := range steps {
		a := ask(t, h, s.call, request{Name: s.name, ID: s.id})
		status := http.StatusOK
		if s.err != "" {
			status = http.StatusInternalServerError
		}
		if a.Err != s.err || a.Status != status {
			t.Errorf("%d. %s %s %q: %+v, want %d and error %q", i, s.call, s.name, s.id, a, status, s.err)
		}
		if want := s.call == "Mount" && s.err == ""; want != (a.Mountpoint == point) {
			t.Errorf("%d. %s %s %q: mount point %q, want %s", i, s.call, s.name, s.id, a.Mountpoint, point)
		}
		if got := usesOf(t, h, "db@gold"); !maps.Equal(got, s.uses) {
			t.Fatalf("%d. after %s %s %q: uses %v, want %v", i, s.call, s.name, s.id, got, s.uses)
		}
	}
	testB11Failing(t, h, point)
	testB11NoBody(t, h)
	// A program that is no engine has no containers, so it removes the volume by any spelling.
	for i, name := range []string{"db@gold", "db@gold", "db"} {
		if a := ask(t, h, "Remove", request{Name: name}); a.Err != "" {
			t.Errorf("%d. Remove %s: %q", i, name, a.Err)
		}
	}
	if a := ask(t, h, "List", request{}); len(a.Volumes) > 0 {
		t.Errorf("listed at the end: %v", a.Volumes)
	}
	h.Clean(t)
}

// testB11Failing: after a failed Mount the engine sends an Unmount, or it does not. Both are accepted, and the next
// Mount works.
func testB11Failing(t *testing.T, h *host.Host, point string) {
	image := filepath.Join(h.Root, "pools", "default", "datasets", filepath.Base(point))
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a := ask(t, h, "Mount", request{Name: "db@gold", ID: "three"}); !strings.HasPrefix(a.Err, "drover: mount of volume db: ") || a.Mountpoint != "" {
			t.Errorf("Mount of a damaged volume: %+v", a)
		}
		if a := ask(t, h, "Unmount", request{Name: "db@gold", ID: "three"}); a.Err != "" {
			t.Error(a.Err)
		}
	}
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	if a := ask(t, h, "Mount", request{Name: "db@gold", ID: "four"}); a.Mountpoint != point {
		t.Errorf("Mount: %+v", a)
	}
	if got := usesOf(t, h, "db@gold"); !maps.Equal(got, map[string]int{"four": 1}) {
		t.Errorf("uses: %v", got)
	}
	if a := ask(t, h, "Unmount", request{Name: "db@gold", ID: "four"}); a.Err != "" {
		t.Error(a.Err)
	}
}

// testB11NoBody: a request that the engine repeats without its body does nothing.
func testB11NoBody(t *testing.T, h *host.Host) {
	for _, call := range []string{"Create", "Remove", "Mount", "Unmount", "Path"} {
		if a := send(t, h, call, nil); a.Status != http.StatusBadRequest || !strings.Contains(a.Err, "repeated the request without its body") {
			t.Errorf("%s without a body: %+v", call, a)
		}
	}
	if got := usesOf(t, h, "db@gold"); len(got) > 0 {
		t.Errorf("uses: %v", got)
	}
}
