package product_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/host"
)

// TestBackups backs up two volumes in use. There is one repository, so the command need not name it. A second backup adds only what has changed. A
// backup that cannot reach the repository fails with the reason, and leaves nothing. A backup is
// restored as a new volume, and never over an existing one. A verification leaves no volume.
func TestBackups(t *testing.T) {
	h := host.Start(t, host.Options{Size: 4 << 30, Profiles: "default: plain\nprofiles:\n  plain: {}\n"})
	at, secret := filepath.Join(h.Dir, "repository"), filepath.Join(h.Dir, "password")
	writePassword(t, secret, "correct horse battery staple")
	wantError(t, h.Exec(t, "backup", "create", "db"), `drover: no such volume: "db" (drover volume ls lists the volumes)`)
	plug := h.Plug(t)
	roots := map[string]string{}
	for name, opts := range map[string]map[string]string{"db": {"size": "96MiB", "label.team": "sea"}, "web": nil} {
		if err := plug.Create(name, opts); err != nil {
			t.Fatal(err)
		}
		root, err := plug.Mount(name, "user")
		if err != nil {
			t.Fatal(err)
		}
		roots[name] = root
	}
	wantError(t, h.Exec(t, "backup", "create", "db"),
		"drover: backup of volume db: no repository is recorded (drover repository add)")
	h.Must(t, "repository", "add", "offsite", at, "--password", "file:"+secret)
	const size = 8 << 20
	large := treetest.Bytes(1, size)
	put(t, filepath.Join(roots["db"], "large"), large)
	put(t, filepath.Join(roots["web"], "large"), treetest.Bytes(2, 1<<20))
	line := `backed up volume (db|web) to offsite: [0-9a-f]{8} \([0-9.]+[KM]iB added\)`
	if got := h.Must(t, "backup", "create", "db", "web"); !regexp.MustCompile("^" + line + "\n" + line + "$").MatchString(got) {
		t.Errorf("got %q", got)
	}
	first, _, _ := strings.Cut(h.Must(t, "backup", "ls", "db", "-q"), "\n")
	put(t, filepath.Join(roots["db"], "small"), []byte("second"))
	op := h.Must(t, "backup", "create", "db", "--to", "offsite", "--detach")
	h.Must(t, "operation", "inspect", "--wait", op)
	var done []dataset.Operation
	if err := json.Unmarshal([]byte("["+h.Must(t, "operation", "inspect", op, "-o", "json")+"]"), &done); err != nil {
		t.Fatal(err)
	}
	if done[0].State != dataset.OpDone || done[0].BytesAdded > size/8 || len(done[0].Backup) != 64 {
		t.Errorf("the second backup is %+v", done[0])
	}
	short := done[0].Backup[:8]
	wantError(t, h.Exec(t, "backup", "restore", short),
		"drover: volume db exists (name the new volume: drover backup restore "+short+" NEW)")
	wantError(t, h.Exec(t, "backup", "restore", short, "web"),
		`drover: volume "web" exists already, and is not replaced (choose another name)`)
	h.Must(t, "backup", "restore", short, "copy")
	var copied struct {
		Size   dataset.Size
		Labels map[string]string
	}
	if err := json.Unmarshal([]byte(h.Must(t, "volume", "inspect", "copy", "-o", "json")), &copied); err != nil {
		t.Fatal(err)
	}
	if copied.Size != 96*dataset.MiB || copied.Labels["team"] != "sea" || len(copied.Labels) != 1 {
		t.Errorf("the restored volume has size %s and labels %v", copied.Size, copied.Labels)
	}
	verified := regexp.MustCompile(`^verified backup ` + short + ` of volume db, taken .*: all files were restored, and equal those of the backup$`)
	if got := h.Must(t, "backup", "verify", "db"); !verified.MatchString(got) {
		t.Errorf("got %q", got)
	}
	check := host.CheckProgram(t, `test "$(cat "$1/small")" = second || { echo "small differs" >&2; exit 2; }`)
	if got := h.Must(t, "backup", "verify", "db", "--check", check); !strings.HasSuffix(got, "those of the backup, and "+check+" found no problem") {
		t.Errorf("got %q", got)
	}
	wantError(t, h.Exec(t, "backup", "verify", first, "--check", check, "-q"),
		"drover: verification of a backup of volume db: check program "+check+": exit status 2: small differs")
	var recorded struct{ Verified []dataset.VerifiedBackup }
	if err := json.Unmarshal([]byte(h.Must(t, "volume", "inspect", "db", "-o", "json")), &recorded); err != nil {
		t.Fatal(err)
	}
	if v := recorded.Verified; len(v) != 2 || v[0].Backup != done[0].Backup || v[0].Failed || v[0].Check != check || v[1].Backup != first || !v[1].Failed {
		t.Errorf("recorded as verified: %+v", v)
	}
	if got := h.Must(t, "backup", "ls", "db", "-o", "wide"); !regexp.MustCompile(`(?m)^` + first[:8] + ` .* failed (just now|.* ago)`).MatchString(got) {
		t.Errorf("the failed verification is not listed: %s", got)
	}
	if r := h.Exec(t, "backup", "verify", "db", "--check", "/bin/true"); r.Exit != 2 || !strings.Contains(r.Err, "must be below /etc/drover/checks/") {
		t.Errorf("got exit status %d: %s", r.Exit, r.Err)
	}
	if got := h.Must(t, "volume", "ls", "-q"); strings.Count(got, "\n") != 2 {
		t.Errorf("the volumes are %q after a verification", got)
	}
	if got := h.Must(t, "events", "-o", "json"); !regexp.MustCompile(`"type": ?"volume.verify"`).MatchString(got) {
		t.Errorf("no event says that a backup was verified: %s", got)
	}
	into, err := plug.Mount("copy", "user")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"large": large, "small": []byte("second")} {
		if got, err := os.ReadFile(filepath.Join(into, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s of the backup has %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
	if names, err := filepath.Glob(filepath.Join(into, ".*")); err != nil || len(names) > 0 {
		t.Errorf("the restore left %q, %v", names, err)
	}
	was, now := status(t, roots["db"]), status(t, into)
	if was.Uid != now.Uid || was.Gid != now.Gid || was.Mode != now.Mode || was.Mtim != now.Mtim {
		t.Errorf("the root of the volume is %+v, and was %+v", now, was)
	}
	if err := plug.Unmount("copy", "user"); err != nil {
		t.Fatal(err)
	}
	rename(t, at, at+".away")
	wantError(t, h.Exec(t, "backup", "create", "db", "-q"), "drover: backup of volume db to offsite: repository "+at+
		": there is no repository (mount its disk, or add the repository with the right URL under another name)")
	rename(t, at+".away", at)
	if r := h.Exec(t, "doctor"); !strings.Contains(r.Out, "this host cannot open it since") {
		t.Errorf("doctor does not name the repository: %s", r.Out)
	}
	h.Must(t, "repository", "check", "offsite") // as doctor says
	if err := plug.Unmount("web", "user"); err != nil {
		t.Fatal(err)
	}
	if err := plug.Unmount("db", "user"); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(h.Root, "backups", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	h.Clean(t)
}

func status(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Two hosts without a cluster push and pull a volume by one repository. The pulled volume has the files, and can be
// pushed. Once both sides have changed, a push is refused with both histories, and a pull takes the other side beside.
func TestPushAndPull(t *testing.T) {
	profiles := "default: plain\nprofiles:\n  plain: {}\n"
	one, two := host.Start(t, host.Options{Size: 2 << 30, Profiles: profiles}), host.Start(t, host.Options{Size: 2 << 30, Profiles: profiles})
	at, secret := filepath.Join(one.Dir, "repository"), filepath.Join(one.Dir, "password")
	writePassword(t, secret, "correct horse battery staple")
	write := func(h *host.Host, volume, text string) {
		t.Helper()
		h.Plug(t).Within(t, volume, func(root string) { put(t, filepath.Join(root, "file"), []byte(text)) })
	}
	says := func(got, want string) {
		t.Helper()
		if !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	restictest.Make(t, at, "correct horse battery staple")
	for _, h := range []*host.Host{one, two} {
		h.Must(t, "repository", "add", "team", at, "--password", "file:"+secret)
	}
	one.Must(t, "volume", "create", "db")
	write(one, "db", "first")
	says(one.Must(t, "push", "db", "team/shop"), `pushed volume db to team/shop: version [0-9a-f]{8} \([0-9.]+[KM]iB added\)`)
	says(two.Must(t, "pull", "team/shop"), `pulled version [0-9a-f]{8} of team/shop as volume shop: dataset [0-9a-f-]{36}, profile plain`)
	says(two.Must(t, "pull", "team/shop"), `volume shop already continues version [0-9a-f]{8} of team/shop: there is nothing to pull`)
	write(two, "shop", "theirs")
	two.Must(t, "push", "shop", "team")
	write(one, "db", "ours")
	if r := one.Exec(t, "push", "db", "team/shop"); r.Exit != 1 || !strings.Contains(r.Err, "both sides have changed") {
		t.Errorf("got %d, %q", r.Exit, r.Err)
	}
	one.Must(t, "pull", "team/shop", "--as", "theirs")
	one.Plug(t).Within(t, "theirs", func(root string) {
		if got, err := os.ReadFile(filepath.Join(root, "file")); err != nil || string(got) != "theirs" {
			t.Errorf("pulled %q, %v", got, err)
		}
	})
	one.Must(t, "push", "db", "team", "--as", "shop-ours")
	if got := one.Must(t, "repository", "versions", "team", "--filter", "state=newest", "--format", "{{.Name}}"); got != "shop\nshop-ours" {
		t.Errorf("the newest versions are of %q", got)
	}
	one.Clean(t)
	two.Clean(t)
}
