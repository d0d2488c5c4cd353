package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/cmd/drover/internal/verification"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// A profile that no host can satisfy is a mistake, whether it names a backend or none. A profile that some host can
// satisfy is not a mistake.
func TestProfileCheckRefusesWhatNoHostKeeps(t *testing.T) {
	for profile, want := range map[string]string{
		"{backend: lop}": `5:16: profiles.p.backend: unknown backend "lop" (available: btrfs, dir, loop, lvm, nfs, zfs); did you mean loop?`,
		"{backend: btrfs, qos: {read_iops: 500}}": "profiles.p.backend: no pool of backend btrfs can satisfy " +
			"this profile: it has no block device for each volume, so it cannot throttle (backend loop, lvm could)",
		"{backend: dir, snapshots: {schedule: '@daily', keep: {last: 1}}}": "it cannot take snapshots without copying (backend btrfs, loop, lvm, zfs could)",
		"{backend: nfs, size: 1GiB}": "no pool of backend nfs can satisfy " +
			"this profile: it cannot enforce a size (backend btrfs, dir, loop, lvm, zfs could)",
		"{backend: loop, size: 1MiB}": "no pool of backend loop can satisfy " +
			"this profile: 1MiB is too small for a volume (at least 16MiB) (backend dir, zfs could)",
		"{backend: btrfs, size: 1MiB}":                           "1MiB is too small for a subvolume (at least 16MiB)",
		"{backend: loop, size: 100MiB, filesystem: {type: xfs}}": "100MiB is too small for xfs, which needs 300MiB",
		"{backend: lvm, size: 1MiB}": "no pool of backend lvm can satisfy " +
			"this profile: 1MiB is too small for a volume (at least 16MiB) (backend dir, zfs could)",
		"{backend: lvm, size: 16MB}": "16MB is too small for a volume (at least 16MiB)",
		"{backend: loop, size: 200MiB, filesystem: {type: xfs}}": "no pool of backend loop can satisfy " +
			"this profile: 200MiB is too small for xfs, which needs 300MiB",
		"{backend: lvm, size: 200MiB, filesystem: {type: xfs}}": "no pool of backend lvm can satisfy " +
			"this profile: 200MiB is too small for xfs, which needs 300MiB",
		"{size: 8KiB}": "profiles.p: no " +
			"backend can satisfy all of this: ",
		"{size: 8KiB, filesystem: {type: xfs}}": "backend loop, lvm: 8KiB is too small for xfs, which needs 300MiB",
		"{access: many, encryption: {key_file: /k}}": "profiles.p: no backend can satisfy all of this: backend " +
			"btrfs, dir, loop, lvm, zfs: it cannot mount a volume on several hosts, as access many requires; " +
			"backend nfs: it cannot encrypt",
		"{backend: loop, qos: {read_iops: 500, strict: true}, size: 1GiB}":                "",
		"{backend: lvm, filesystem: {type: xfs, mount: [noatime]}}":                       "",
		"{backend: zfs, encryption: {exec: [/bin/key]}, size: 1MiB}":                      "",
		"{backend: btrfs, size: 16MiB, snapshots: {schedule: '@daily', keep: {last: 1}}}": "",
		"{backend: dir, size: 1MiB}":                                                      "",
		"{access: many}":                                                                  "",
		"{size: 1MiB}":                                                                    "", // dir and zfs have such
	} {
		file := filepath.Join(t.TempDir(), "profiles.yaml")
		src := "default: plain\nprofiles:\n  plain: {}\n\n  p: " + profile + "\n"
		require.NoError(t, os.WriteFile(file, []byte(src), 0o600))
		c := newConsole(&fake{})
		code := c.run(t, "config", "check", "--profiles", file)
		if _, err := settings.LoadProfiles(file); (err == nil) != (want == "") || (code == 0) != (want == "") || !strings.Contains(c.err.String(), want) {
			t.Errorf("%s: exit %d: %s, and a server has %v, want %q", profile, code, c.err.String(), err, want)
		}
	}
}

// A pool that no node has and a key that cannot be read are reported, but are not mistakes, because they may be created
// later.
func TestProfileCheckTellsOfWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "profiles.yaml")
	src := "default: a\nprofiles:\n  a: {pool: fast}\n  b: {pool: fst}\n  c: {encryption: {key_file: " + dir + "/key}}\n"
	require.NoError(t, os.WriteFile(file, []byte(src), 0o600))
	check := func(f *fake, parts ...string) {
		t.Helper()
		c := newConsole(f)
		c.App.CheckKey = settings.CheckKey
		code := c.run(t, "config", "check", "--profiles", file)
		for _, part := range append(parts, "profile c cannot create volumes on this host yet: key file "+dir+"/key not found (restore it") {
			if !strings.Contains(c.out.String(), part) || code != 0 {
				t.Errorf("exit %d: %s%s, want %q", code, c.out.String(), c.err.String(), part)
			}
		}
		if strings.Contains(c.out.String(), "profile a names") != (f.fail != nil) {
			t.Errorf("of a pool that is there: %s", c.out.String())
		}
	}
	there := []api.Pool{{Pool: dataset.Pool{Name: "fast"}}, {Pool: dataset.Pool{Name: "fast"}}, {Pool: dataset.Pool{Name: "plain"}}}
	check(&fake{pools: there}, "profile b names pool fst, which no node has (available: fast, plain); did you "+
		"mean fast?")
	check(&fake{fail: map[string]error{"Pools": dataset.Errorf(dataset.ErrUnavailable, "no server")}}, "profile b "+
		"names pool fst, which could not be checked: no server")
}

// proven returns the results of the suite for the pools of the test world: pool default has its declared capabilities,
// and pool plain lacks one of them.
func proven(_ context.Context, p api.Pool) (*verify.Report, error) {
	r := &verify.Report{Pool: p.Name, ID: p.ID, Node: p.NodeName, Backend: p.Backend, Path: p.Path, Note: p.Note, Seconds: 61.4}
	all := verify.Result{Name: "All"}
	for _, c := range backendtest.Cases() {
		all.Proves = append(all.Proves, c.Proves...)
	}
	for _, c := range []verify.Result{all, {Name: "GenerationIsRaised"}} {
		r.Add(verify.Event{Result: &c})
	}
	r.Add(verify.Event{Times: []backendtest.Time{{What: "create", Seconds: 0.00782}, {What: "send", Seconds: 0.25, Bytes: 64 << 20}}})
	can := p.Capabilities
	if p.Name == "plain" {
		can.Shrink = false
		r.Cases[1].Failures = []string{"generation 0, want 1", "generation 1, want 7"}
		r.Add(verify.Event{Unsupported: []string{"acls"}})
		r.Warnings = []string{verification.QuotaWarning("/srv/plain")}
	}
	return r, r.Judge(p.Capabilities, can)
}

// A pool that is on another host, not online or nearly full is refused before anything is created.
func TestVerifyIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	require.NoError(t, os.Mkdir(path, 0o700))
	full := scratch.Mount(t, "ext4", 256<<20) // the disk is full, whatever its node reported
	good := api.Pool{
		Pool:   dataset.Pool{ID: uuid.New(), Name: "fast", Backend: "dir", Path: path},
		Status: &dataset.PoolStatus{Online: true, Size: 100 * dataset.GiB, Free: 50 * dataset.GiB}, NodeName: "host-b",
	}
	image := filepath.Join(t.TempDir(), "pool.img")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	for what, c := range map[string]struct {
		change func(*api.Pool)
		kind   *dataset.Kind
		says   string
	}{
		"full": {func(p *api.Pool) { p.Status = &dataset.PoolStatus{Online: true, Size: dataset.GiB, Free: dataset.GiB} }, dataset.ErrNoSpace, "the suite needs 1GiB beside the reserve of 51.2MiB"},
		"full, of size": {func(p *api.Pool) {
			p.Capabilities.EnforcesSize, p.Status = true, &dataset.PoolStatus{Online: true, Size: 4 * dataset.GiB, Free: 4 * dataset.GiB}
		}, dataset.ErrNoSpace, "needs 4GiB"},
		"full by now": {func(p *api.Pool) {
			p.Status = &dataset.PoolStatus{Online: true, Size: 100 * dataset.GiB, Free: 50 * dataset.GiB}
			p.Path = full
		}, dataset.ErrNoSpace, "the suite needs 1GiB beside"},
		"offline": {func(p *api.Pool) { p.Status = &dataset.PoolStatus{Reason: "its disk is gone"} }, dataset.ErrOffline, ": it must " +
			"be online to be verified"},
		"elsewhere": {func(p *api.Pool) { p.Path += "-x" }, dataset.ErrOffline, "run this on that node"},
		"unmounted": {func(p *api.Pool) { p.Path = image }, dataset.ErrOffline, "in drover's mount namespace"},
		"another":   {func(*api.Pool) {}, dataset.ErrOffline, "run this on the node that has it, as root"},
	} {
		p := good
		c.change(&p)
		con := newConsole(theWorld())
		if _, err := verification.VerifyPool(t.Context(), con.App, p); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		if names, err := os.ReadDir(path); err != nil || len(names) > 0 {
			t.Errorf("%s: it made %v, %v", what, names, err)
		}
	}
}

// AwaitPool waits until the node of a new pool has reported the pool.
func TestVerifyWaitsForANewPool(t *testing.T) {
	w := theWorld()
	for _, tells := range []bool{true, false} {
		con := newConsole(w)
		status := w.pools[0].Status
		w.pools[0].Status = nil
		con.Sleep = func(context.Context, time.Duration) error {
			if con.slept++; tells && con.slept == 3 {
				w.pools[0].Status = status
			}
			return nil
		}
		p, err := verification.AwaitPool(t.Context(), con.App, w, w.pools[0].Name)
		if err != nil || (p.Status != nil) != tells || tells != (con.slept == 3) || con.slept == 0 {
			t.Errorf("tells %t: %+v, %v after %d looks", tells, p.Status, err, con.slept)
		}
		w.pools[0].Status = status
	}
}

// Every capability that the suite tests has a description, which pool inspect shows too.
func TestCapabilitiesHaveWords(t *testing.T) {
	r, err := proven(t.Context(), api.Pool{})
	require.NoError(t, err)
	for _, v := range r.Capabilities {
		if verification.VerdictOrder(v) < 0 {
			t.Errorf("%s has none", v.Name)
		}
	}
	if len(r.Capabilities) != len(pools.Abilities()) {
		t.Errorf("%d are proven, and %d have words", len(r.Capabilities), len(pools.Abilities()))
	}
}
