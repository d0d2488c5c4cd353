package product

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/consul"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/host"
)

// onConsul is a drover.yaml with the store in Consul. The two %s are its address and its prefix.
const onConsul = `store:
  consul:
    addresses:
      - %s
    prefix: %s
    token_file: %s
`

// The store of a host is moved from its file to Consul, and back, with its whole contents: the node recognizes the
// store as its own, the uses of volumes are known, and volumes are made and removed as before.
func TestStoreMovesToConsulAndBack(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(c.NewToken(consul.Policy("lab"))), 0o600); err != nil {
		t.Fatal(err)
	}
	h := host.Start(t, host.Options{})
	own := []string{"--root", h.Root, "--config", filepath.Join(h.Dir, "drover.yaml")}
	must := func(a answer) {
		t.Helper()
		if a.Err != "" {
			t.Fatal(a.Err)
		}
	}
	for _, name := range []string{"db@gold", "old@gold", "trashed@gold"} {
		must(ask(t, h, "Create", request{Name: name}))
	}
	must(ask(t, h, "Mount", request{Name: "db@gold", ID: "one"}))
	h.Must(t, "snapshot", "create", "db", "--name", "first")
	h.Must(t, "volume", "rm", "trashed")
	r := h.Exec(t, append([]string{"store", "export", filepath.Join(dir, "early")}, own...)...)
	if r.Exit != 1 || !strings.Contains(r.Err, "another drover (pid ") {
		t.Errorf("of a store that is served: exit %d, %s", r.Exit, r.Err)
	}
	check := func(store string) {
		t.Helper()
		if v := h.Must(t, "version"); !strings.Contains(v, store) {
			t.Errorf("%s: %s", store, v)
		}
		if err := h.FindError(t); err != nil {
			t.Error(err)
		}
		if uses := usesOf(t, h, "db@gold"); uses["one"] != 1 {
			t.Errorf("%s: %v", store, uses)
		}
		if s := h.Must(t, "snapshot", "ls", "db"); !strings.Contains(s, "first") {
			t.Errorf("%s: %s", store, s)
		}
		must(ask(t, h, "Create", request{Name: store + "@gold"}))
		must(ask(t, h, "Remove", request{Name: store + "@gold"}))
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	move := func(name, into, config string, flags ...string) {
		t.Helper()
		h.Stop(t)
		// A stopped host counts as alive until its session ends, because its containers may still write.
		export := append([]string{"store", "export", file(name)}, own...)
		for end := time.Now().Add(time.Minute); ; {
			r := h.Exec(t, export...)
			if r.Exit == 0 {
				break
			}
			if !strings.Contains(r.Err, "something works on the store") || time.Now().After(end) {
				t.Fatalf("export: exit %d, %s", r.Exit, r.Err)
			}
		}
		if err := os.WriteFile(filepath.Join(h.Dir, "drover.yaml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if s := h.Must(t, append(append([]string{"store", "import", file(name)}, own...), flags...)...); !strings.Contains(s, into) {
			t.Errorf("%s: %s, want %q", name, s, into)
		}
		h.Up(t)
	}
	before, err := os.ReadFile(filepath.Join(h.Dir, "drover.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	move("to-consul", "into prefix lab of Consul at "+c.Addresses()[0], fmt.Sprintf(onConsul, c.Addresses()[0], "lab", token))
	check("consul")
	h.Must(t, "trash", "restore", "trashed")
	must(ask(t, h, "Remove", request{Name: "old@gold"}))

	move("and-back", "into the file ", string(before), "--force", "--yes")
	check("bolt")
	var all []api.Volume
	h.JSON(t, &all, "volume", "ls")
	if len(all) != 2 || all[0].Dataset.Volume != "db" || all[1].Dataset.Volume != "trashed" {
		t.Errorf("%+v", all)
	}
	must(ask(t, h, "Unmount", request{Name: "db@gold", ID: "one"}))
}
