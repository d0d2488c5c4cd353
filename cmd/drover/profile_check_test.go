package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestProfileCheckShowsBackups: config check shows the scheduled backups of each profile that has some.
func TestProfileCheckShowsBackups(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profiles.yaml")
	src := "default: plain\nprofiles:\n  plain: {}\n  saved:\n" +
		"    backup: {to: offsite, schedule: '@daily', keep: {last: 7}}\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newConsole(&fake{})
	code := c.run(t, "config", "check", "--profiles", file)
	want := "\nprofile saved makes backups to offsite, at @daily, kept: the last 7\n"
	if out := c.out.String(); code != 0 || !strings.Contains(out, want) || strings.Count(out, "makes backups") != 1 {
		t.Errorf("exit %d: %s%s", code, out, c.err.String())
	}
}

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
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
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
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
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
