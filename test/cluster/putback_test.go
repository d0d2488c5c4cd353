package cluster_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
)

// poolOf returns the path of a host's pool on that host, and its generation.
func poolOf(t *testing.T, h *cluster.Host) (at string, generation uint64) {
	t.Helper()
	var list []api.Pool
	h.JSON(t, &list, "pool", "ls")
	for _, p := range list {
		if p.NodeName != h.Name {
			continue
		}
		raw, err := os.ReadFile(h.File(filepath.Join(p.Path, "pool.json")))
		var is struct{ Generation uint64 }
		if err == nil {
			err = json.Unmarshal(raw, &is)
		}
		if err != nil {
			t.Fatal(err)
		}
		return p.Path, is.Generation
	}
	t.Fatalf("no pool of %s in %+v", h.Name, list)
	return "", 0
}

func awaitRaised(t *testing.T, h *cluster.Host, over uint64) (generation uint64) {
	t.Helper()
	host.Await(t, h.Name+" raises its pool", func() error {
		if _, generation = poolOf(t, h); generation <= over {
			return fmt.Errorf("generation %d", generation)
		}
		return nil
	})
	return generation
}

// TestDiskIsPutBack: the disk of a home, then that of a replica, is restored to an older state while its host is
// down. Nothing of it is mounted or takes over before a person accepts it, and all outputs for people say so. The
// other host and its volumes continue.
func TestDiskIsPutBack(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Consul: 1, Controls: 1, Hosts: 2, Engines: -1, Profiles: "default: gold\nprofiles:\n  gold: {size: 320MiB, replicas: {count: 1, every: 1s}}\n  alone: {size: 320MiB}\n"})
	a, b := c.Hosts[0], c.Hosts[1]
	control := c.Controls[0]
	write := func(text string) {
		t.Helper()
		mounted(t, a, "db", func(at string) {
			if err := os.WriteFile(a.File(filepath.Join(at, "file")), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	shell := func(h *cluster.Host, args ...string) {
		t.Helper()
		args = h.On.Command(args...)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	// back restores the pool of a host to its present state after it was used further.
	back := func(h *cluster.Host, meanwhile func()) {
		t.Helper()
		at, generation := poolOf(t, h)
		h.Stop(t)
		shell(h, "cp", "-a", "--reflink=always", at, at+".saved")
		h.StartAgent(t)
		awaitRaised(t, h, generation)
		meanwhile()
		h.Stop(t)
		shell(h, "rm", "-r", at)
		shell(h, "mv", at+".saved", at)
		h.StartAgent(t)
	}
	held := func(h *cluster.Host) {
		t.Helper()
		const wayOut = "drover pool accept default, on node "
		host.Await(t, "control shows it", func() error {
			for _, args := range [][]string{{"pool", "ls"}, {"node", "inspect", h.Name}} {
				if out := control.Must(t, args...); !strings.Contains(out, "held") || !strings.Contains(out, wayOut+h.Name) {
					return fmt.Errorf("drover %v: %s", args, out)
				}
			}
			return nil
		})
		if r := h.Exec(t, "doctor"); r.Exit != 1 || !strings.Contains(r.Out, "is held") || !strings.Contains(r.Out, wayOut+h.Name) {
			t.Errorf("doctor: %+v", r)
		}
		if got := h.Metrics(t)[`drover_pool_held{node="`+h.Name+`",pool="default"}`]; got != 1 {
			t.Errorf("drover_pool_held is %v", got)
		}
	}
	accept := func(h *cluster.Host) {
		t.Helper()
		if r := h.Exec(t, "pool", "accept", "default"); r.Exit != 2 || !strings.Contains(r.Err, "--yes") {
			t.Errorf("without a word: %+v", r)
		}
		h.Drover(t, "pool", "accept", "default", "--yes")
		log, err := os.ReadFile(h.File(filepath.Join(h.Root, "agent-audit.log")))
		if err != nil || !strings.Contains(string(log), `"what":"accept-pool"`) {
			t.Errorf("the audit log has %s, %v", log, err)
		}
		host.Await(t, h.Name+" is at ease", func() error { return h.FindError(t) })
	}
	a.Drover(t, "volume", "create", "db")
	write("old")
	awaitReplica := func() {
		t.Helper()
		host.Await(t, "a replica", func() error {
			if v := a.Inspect(t, "db"); len(v.CopyDetails) != 1 || !v.CopyDetails[0].Promotable() || v.CopyDetails[0].VerifiedAtHome.Before(v.Created) {
				return fmt.Errorf("%+v", v.CopyDetails)
			}
			return nil
		})
	}
	awaitReplica()

	back(a, func() { write("new") })
	for _, beside := range []string{"one", "two"} {
		held(a)
		if _, err := a.Plug(t).Mount("db", host.NewID()); err == nil || !strings.Contains(err.Error(), "is held") {
			t.Errorf("mount: %v", err)
		}
		if r := control.Exec(t, "volume", "move", "db", b.Name); r.Exit != 1 || !strings.Contains(r.Err, "is held") {
			t.Errorf("moved from it: %+v", r)
		}
		b.Drover(t, "volume", "create", beside, "-o", "profile=alone")
		a.KillAgent(t)
		a.StartAgent(t)
	}
	accept(a)
	mounted(t, a, "db", func(at string) {
		if got, err := os.ReadFile(a.File(filepath.Join(at, "file"))); err != nil || string(got) != "old" {
			t.Errorf("db has %q, %v", got, err)
		}
	})

	write("newer")
	awaitReplica()
	back(b, awaitReplica)
	held(b)
	a.Stop(t)
	host.Await(t, "a replica that was put back is refused", func() error {
		r := control.Exec(t, "volume", "move", "db", b.Name, "--force", "--fenced", a.Name)
		if r.Exit == 0 {
			t.Fatalf("it continued from it: %+v", r)
		}
		if !strings.Contains(r.Err, "in a pool that is held") { // its home may still count as alive
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	a.StartAgent(t)
	accept(b)
	awaitReplica()
	write("newest")
}
