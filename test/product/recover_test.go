package product_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/backupserver"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// TestRecover brings the volumes of a lost host back on another one, which has only the repository, its password and
// the profiles. The command and the daemon are killed in the middle of it. The command is then repeated, and recovers
// the volumes that are still absent.
func TestRecover(t *testing.T) {
	const text = "default: plain\nprofiles:\n  plain: {}\n  gold: {size: 64MiB}\n"
	elsewhere := t.TempDir()
	at, secret := filepath.Join(elsewhere, "offsite"), filepath.Join(elsewhere, "password")
	writePassword(t, secret, "correct horse battery staple")
	content := map[string][]byte{}
	t.Run("lost", func(t *testing.T) { // all that this host has is removed at the end
		h := host.Start(t, host.Options{Size: 4 << 30, Profiles: text})
		plug := h.Plug(t)
		restictest.Make(t, at, "correct horse battery staple")
		h.Must(t, "repository", "add", "offsite", at, "--password", "file:"+secret)
		for i, name := range []string{"db", "web", "cache"} {
			opts := map[string]string{"profile": "gold", "size": fmt.Sprintf("%dMiB", 80+16*i), "label.team": name}
			require.NoError(t, plug.Create(name, opts))
			content[name] = treetest.Bytes(uint64(i), 8<<20)
			plug.Within(t, name, func(root string) { put(t, filepath.Join(root, "data"), content[name]) })
		}
		h.Must(t, "backup", "create", "db", "web", "cache")
		rehearse(t, h)
	})

	h := host.Start(t, host.Options{Size: 4 << 30, Profiles: text})
	list := h.Exec(t, "recover", "--from", at, "--password", "file:"+secret)
	if rows := regexp.MustCompile(`(?m)^(cache|db|web) .* (80|96|112)MiB +\S+ +(gold|image) +absent$`).
		FindAllString(list.Out, -1); list.Exit != 0 || len(rows) != 3 {
		t.Fatalf("exit %d: %s%s", list.Exit, list.Out, list.Err)
	}
	all := []string{"recover", "--from", "offsite", "--all", "--take-over"}
	killed := startCommand(t, h, append(all, "--parallel", "1")...)
	awaitRestore(t, h, 1)
	require.NoError(t, killed.Process.Kill())
	_ = killed.Wait() // it was killed
	wantWhole(t, h, content)

	running := startCommand(t, h, all...)
	awaitRestore(t, h, 1)
	h.Kill9(t)
	h.Up(t)
	_ = running.Wait() // it fails if the daemon was away for a request
	wantWhole(t, h, content)

	if got := h.Exec(t, all...); got.Exit != 0 || !strings.HasSuffix(got.Out, "\n3 of 3 volumes are recovered\n") {
		t.Fatalf("exit %d: %s%s", got.Exit, got.Out, got.Err)
	}
	if n := len(wantWhole(t, h, content)); n != 3 {
		t.Errorf("%d volumes are recovered", n)
	}
	h.Clean(t)
}

// rehearse rehearses the recovery of the volumes db, web and cache where they exist, and fails the test if it leaves
// something behind.
func rehearse(t *testing.T, h *host.Host) {
	t.Helper()
	before := h.Must(t, "volume", "ls", "-q")
	r := h.Exec(t, "recover", "--from", "offsite", "--all", "--rehearse")
	rows := regexp.MustCompile(`(?m)^(cache|db|web) +[0-9a-f]{8} +\S.* (?:ago|now) +(8|1\d)(\.\d+)?MiB +\S+ +verified$`).FindAllString(r.Out, -1)
	if r.Exit != 0 || len(rows) != 3 || !strings.Contains(r.Out, "\n3 of 3 volumes were restored and compared in ") {
		t.Errorf("exit %d: %s%s", r.Exit, r.Out, r.Err)
	}
	if after := h.Must(t, "volume", "ls", "-q"); after != before {
		t.Errorf("the volumes were\n%s\nand are\n%s", before, after)
	}
}

// TestRecordsInRepository loses the store of a host. The records are fetched from the repository while no drover runs,
// and imported. A rebuild adds what has changed since they were stored.
func TestRecordsInRepository(t *testing.T) {
	h := host.Start(t, host.Options{Pool: "dir"})
	elsewhere := t.TempDir()
	at, secret := filepath.Join(elsewhere, "offsite"), filepath.Join(elsewhere, "password")
	writePassword(t, secret, "correct horse battery staple")
	restictest.Make(t, at, "correct horse battery staple")
	h.Must(t, "repository", "add", "offsite", at, "--password", "file:"+secret, "--store-records")
	h.Must(t, "volume", "create", "db", "-o", "label.team=sea")
	h.Restart(t) // the first export is stored soon after a start
	fetch := []string{"store", "export", "--root", h.Root, "--from", at, "--password", "file:" + secret}
	host.Await(t, "the first export", func() error {
		if r := h.Exec(t, fetch...); r.Exit != 0 || strings.Count(r.Out, "\n") < 2 { // a heading, and a line
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if got := h.Exec(t, "backup", "ls"); got.Exit != 0 || strings.Contains(got.Out, "offsite") {
		t.Errorf("the records are listed as a backup of a volume: %+v", got)
	}
	h.Must(t, "volume", "create", "late")
	h.Stop(t)
	require.NoError(t, os.Remove(filepath.Join(h.Root, "store.db")))
	file := filepath.Join(elsewhere, "records.jsonl")
	fetched := h.Exec(t, append(fetch, file)...)
	wantOutput(t, fetched, "fetched ", " to "+file+"\n")
	if !strings.Contains(fetched.Out, ", including 1 volumes, stored ") {
		t.Errorf("got %q", fetched.Out)
	}
	if r := h.Exec(t, append(fetch, file)...); r.Exit != 1 || !strings.Contains(r.Err, file+" exists") {
		t.Errorf("fetched to a file that exists: %+v", r)
	}
	h.Must(t, "store", "import", "--root", h.Root, file)
	h.Up(t)
	if r := h.Exec(t, "store", "recover", "--from-pools"); r.Exit != 0 {
		t.Fatalf("%+v", r)
	}
	if got := h.Volumes(t); !slices.Equal(got, []string{"db", "late"}) {
		t.Errorf("the volumes are %q", got)
	}
	if got := h.Must(t, "repository", "ls", "-q"); got != "offsite" {
		t.Errorf("the repositories are %q", got)
	}
	h.Clean(t)
}

// startCommand starts a command of the drover command line.
func startCommand(t *testing.T, h *host.Host, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), host.Binary(t), args...)
	cmd.Env = append(os.Environ(), "DROVER_API="+h.API())
	require.NoError(t, cmd.Start())
	return cmd
}

// awaitRestore waits until there are so many volumes, and a restore of another one is in progress. It fails if all
// restores have ended before.
func awaitRestore(t *testing.T, h *host.Host, volumes int) {
	t.Helper()
	host.Await(t, "a restore begins", func() error {
		var ops []dataset.Operation
		h.JSON(t, &ops, "operation", "ls")
		done, running := 0, 0
		for _, op := range ops {
			switch {
			case op.Kind == dataset.OpImport && op.State == dataset.OpDone:
				done++
			case op.Kind == dataset.OpImport && !op.State.Final():
				running++
			}
		}
		if done == 3 {
			t.Fatal("all volumes were recovered before the kill")
		}
		if done < volumes || running == 0 {
			return fmt.Errorf("%d restores are done, and %d are in progress", done, running)
		}
		return nil
	})
}

// wantWhole fails unless each volume that exists has the content, the size and the label of the volume that was backed
// up. It returns the names of the volumes.
func wantWhole(t *testing.T, h *host.Host, content map[string][]byte) (names []string) {
	t.Helper()
	plug := h.Plug(t)
	var list []struct {
		Volume string
		Size   dataset.Size
		Labels map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(h.Must(t, "volume", "ls", "-o", "json")), &list))
	sizes := map[string]dataset.Size{"db": 80, "web": 96, "cache": 112}
	for _, v := range list {
		names = append(names, v.Volume)
		if v.Size != sizes[v.Volume]*dataset.MiB || len(v.Labels) != 1 || v.Labels["team"] != v.Volume {
			t.Errorf("volume %s has size %s and labels %v", v.Volume, v.Size, v.Labels)
		}
		plug.Within(t, v.Volume, func(root string) {
			if got, err := os.ReadFile(filepath.Join(root, "data")); err != nil || !bytes.Equal(got, content[v.Volume]) {
				t.Errorf("volume %s: %d bytes, %v", v.Volume, len(got), err)
			}
		})
	}
	return names
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

func writePassword(t *testing.T, path, password string) {
	t.Helper()
	put(t, path, []byte(password+"\n"))
}

// wantOutput fails unless a command succeeded and its output begins and ends with texts.
func wantOutput(t *testing.T, r host.Result, begin, end string) {
	t.Helper()
	if r.Exit != 0 || !strings.HasPrefix(r.Out, begin) || !strings.HasSuffix(r.Out, end) {
		t.Errorf("exit %d: %q %q, want %q…%q", r.Exit, r.Out, r.Err, begin, end)
	}
}

// TestBackupServers makes, checks, restores and removes a backup on an S3 and on an SSH server. internal/restic tests a
// REST server.
func TestBackupServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *backupserver.Server{"s3": backupserver.S3, "sftp": backupserver.SFTP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			h := host.Start(t, host.Options{Size: 2 << 30, Profiles: "default: plain\nprofiles: {plain: {}}\n", Env: s.Env})
			secret := filepath.Join(h.Dir, "password")
			writePassword(t, secret, "correct horse battery staple")
			add := []string{"repository", "add", "offsite", s.URL, "--password", "file:" + secret, "--store-records=false"}
			if s.CredentialsFile != "" {
				add = append(add, "--credentials-file", s.CredentialsFile)
			}
			wantOutput(t, h.Exec(t, add...), "made repository ", "added repository offsite\n")
			h.Must(t, "volume", "create", "db")
			content := treetest.Bytes(3, 4<<20)
			h.Plug(t).Within(t, "db", func(root string) { put(t, filepath.Join(root, "data"), content) })
			h.Must(t, "backup", "create", "db")
			wantOutput(t, h.Exec(t, "repository", "check", "offsite", "--read-data", "100"), "repository offsite (",
				"): no data is missing, and 100% of the data was read without errors\n")
			id := h.Must(t, "backup", "ls", "db", "-q")
			h.Must(t, "backup", "restore", id, "copy")
			h.Plug(t).Within(t, "copy", func(root string) {
				if got, err := os.ReadFile(filepath.Join(root, "data")); err != nil || !bytes.Equal(got, content) {
					t.Errorf("restored: %d bytes, %v", len(got), err)
				}
			})
			h.Must(t, "backup", "rm", id, "--yes")
			if got := h.Must(t, "backup", "ls", "db", "-q"); got != "" {
				t.Errorf("the backups are %q after their removal", got)
			}
		})
	}
}
