package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const hungProfiles = `default: plain
profiles:
  plain: {pool: default, size: 320MiB, on_delete: purge}
  cold: {pool: cold, size: 320MiB, on_delete: purge}
  odd: {pool: default, size: 64MiB, filesystem: {type: ext4}, on_delete: purge}
`

// The disk of a pool accepts no writes, and a command waits for it in the kernel, where nothing can end the command.
// Requests that need the disk or the command end in time, all other volumes are served, and doctor names both. When
// the disk continues, so do they.
func TestC6(t *testing.T) {
	root, cold := filepath.Join(scratch.Mount(t, "xfs", 2<<30), "root"), scratch.Mount(t, "xfs", 1<<30)
	tools, gate := t.TempDir(), filepath.Join(t.TempDir(), "gate")
	mkfs, err := exec.LookPath("mkfs.ext4")
	require.NoError(t, err)
	script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ]; then exec touch %s/file; fi\nexec %s \"$@\"\n", gate, cold, mkfs)
	require.NoError(t, os.WriteFile(filepath.Join(tools, "mkfs.ext4"), []byte(script), 0o755))
	w := newWorld(t, host.Options{
		Root: root, Profiles: hungProfiles, Env: []string{"PATH=" + tools + ":" + os.Getenv("PATH")},
		Config: fmt.Sprintf("pools: [{name: default, backend: loop, path: %s/pool}, {name: cold, backend: loop, path: %s/pool}]\n", root, cold),
	})
	w.make(t, "warm", "plain", "warm")
	w.make(t, "old", "cold", "old")
	w.ok(t, os.WriteFile(gate, nil, 0o600))
	thaw := freeze(t, cold)

	specs := map[string]string{"stuck": "cold", "tool": "odd"}
	answers := map[string]chan error{}
	for name, profile := range specs {
		answers[name] = make(chan error, 1)
		go func() { answers[name] <- w.plug.Create(name, map[string]string{"profile": profile}) }()
	}
	host.Await(t, "doctor names both", func() error {
		out := w.h.Exec(t, "doctor").Out
		if list, _ := w.h.Client(t).Doctor(t.Context()); !hung(list, "create of volume stuck", "drover's threads wait") || !hung(list, "create of volume tool", "touch (process ") {
			return errors.New(out)
		}
		return nil
	})
	began := time.Now()
	w.make(t, "other", "plain", "other")
	w.holds(t, "warm", "warm")
	w.snapshot(t, "warm", "meanwhile")
	w.ok(t, w.submit(t, api.Request{Kind: "resize", Volume: "warm", Size: "480MiB"}))
	w.listed(t)
	if all, err := w.plug.List(); err != nil || len(all) < 3 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := w.plug.Get("old"); err != nil {
		t.Error(err)
	}
	t.Logf("other volumes were served in %s", time.Since(began))
	w.ok(t, os.Remove(gate))
	thaw()
	for name, answer := range answers {
		if err := <-answer; err != nil { // its command may have failed
			t.Log(err)
		}
		host.Await(t, name+" is made", func() error { return w.plug.Create(name, map[string]string{"profile": specs[name]}) })
		w.write(t, name, name)
	}
	w.kept(t)
	w.h.Clean(t)
}

// hung reports whether a finding says that something hangs, and on what.
func hung(list []api.Finding, subject, on string) bool {
	for _, f := range list {
		if f.Subject == subject && f.Level == "warning" && strings.Contains(f.Text, on) {
			return true
		}
	}
	return false
}

// freeze blocks writes to a filesystem, until it is thawed or the test ends.
func freeze(t *testing.T, at string) (thaw func()) {
	t.Helper()
	dir, err := os.Open(at)
	if err == nil {
		err = fsctl.Freeze(dir)
	}
	require.NoError(t, err)
	thaw = sync.OnceFunc(func() {
		assert.NoError(t, errors.Join(fsctl.Thaw(dir), dir.Close()))
	})
	t.Cleanup(thaw)
	return thaw
}
