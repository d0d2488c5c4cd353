package product

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/internal/long"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/host"
)

// onConsul is a drover.yaml with the store in Consul; %s: its address, its prefix.
const onConsul = `store:
  consul:
    addresses:
      - %s
    prefix: %s
    token_file: %s
`

// One host with its store in Consul does what one with a file does: volumes are made,
// used, kept over a restart and over the death of Consul, and removed.
func TestStoreInConsul(t *testing.T) {
	long.Only(t)
	c := consultest.Start(t, consultest.Options{ACL: true})
	token := filepath.Join(t.TempDir(), "token")
	secret := c.NewToken(consul.Policy("lab"))
	if err := os.WriteFile(token, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	h := host.Start(t, host.Options{Config: fmt.Sprintf(onConsul, c.Addresses()[0], "lab", token)})
	if v := h.Must(t, "version"); !strings.Contains(v, "consul") {
		t.Error(v)
	}
	create := func(name string) {
		t.Helper()
		if a := ask(t, h, "Create", request{Name: name}); a.Err != "" {
			t.Fatal(a.Err)
		}
	}
	create("db@gold")
	m := ask(t, h, "Mount", request{Name: "db@gold", ID: "one"})
	if m.Err != "" || !isMounted(t, m.Mountpoint) {
		t.Fatalf("%+v", m)
	}
	h.Must(t, "snapshot", "create", "db", "--name", "first")
	h.Stop(t)
	h.Up(t)
	if uses := usesOf(t, h, "db@gold"); uses["one"] != 1 {
		t.Errorf("after a restart: %v", uses)
	}
	h.Must(t, "doctor")

	// Consul is away: what is home here works, what control would have to decide fails
	// and says why; then it goes on.
	c.Servers[0].Kill()
	if a := ask(t, h, "Get", request{Name: "db@gold"}); a.Err != "" {
		t.Error(a.Err)
	}
	if a := ask(t, h, "Mount", request{Name: "db@gold", ID: "two"}); a.Err != "" {
		t.Error(a.Err)
	}
	if a := ask(t, h, "Create", request{Name: "new@gold"}); !strings.Contains(a.Err, "consul") || !strings.Contains(a.Err, "refused") {
		t.Errorf("%q", a.Err)
	}
	c.Servers[0].Start()
	c.AwaitLeader()
	create("new@gold")
	for _, id := range []string{"one", "two"} {
		if a := ask(t, h, "Unmount", request{Name: "db@gold", ID: id}); a.Err != "" {
			t.Error(a.Err)
		}
	}
	var all []api.Volume
	h.JSON(t, &all, "volume", "ls")
	if len(all) != 2 {
		t.Errorf("%+v", all)
	}
	for _, name := range []string{"db@gold", "new@gold"} {
		if a := ask(t, h, "Remove", request{Name: name}); a.Err != "" {
			t.Error(a.Err)
		}
	}
	if r := h.Exec(t, "store", "backup", filepath.Join(t.TempDir(), "b")); r.Exit == 0 {
		t.Error("a store in Consul was backed up to a file")
	} else {
		t.Log(r.Err)
	}
	if strings.Contains(h.Log(), secret) {
		t.Error("the token stands in the log")
	}
}

// A store in Consul that cannot be used ends the start, in one line that says why.
func TestStoreInConsulRefused(t *testing.T) {
	long.Only(t)
	c := consultest.Start(t, consultest.Options{ACL: true})
	token := filepath.Join(t.TempDir(), "token")
	secret := c.NewToken(`key_prefix "other/" { policy = "write" }`)
	if err := os.WriteFile(token, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	h := host.Start(t, host.Options{Down: true, Config: fmt.Sprintf(onConsul, c.Addresses()[0], "lab", token)})
	r := h.Exec(t, "serve", "--root", h.Root, "--run", filepath.Join(h.Dir, "run"), "--driver", h.Driver,
		"--config", filepath.Join(h.Dir, "drover.yaml"), "--profiles", filepath.Join(h.Dir, "profiles.yaml"))
	if r.Exit != 1 || !strings.Contains(r.Err, "lacks key:read on lab/own/format") || strings.Contains(r.Err, secret) {
		t.Errorf("exit %d: %s", r.Exit, r.Err)
	}
}
