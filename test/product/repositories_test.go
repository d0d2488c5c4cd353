package product_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/host"
)

// TestRepositories: a repository is made once, is opened only with its password, names a damaged file in a check, and
// keeps its data when its record is removed.
func TestRepositories(t *testing.T) {
	h := host.Start(t, host.Options{Pool: "dir"})
	at, secret := filepath.Join(h.Dir, "repository"), filepath.Join(h.Dir, "password")
	writePassword(t, secret, "correct horse battery staple")
	add := func(name, password string) host.Result {
		t.Helper()
		return h.Exec(t, "repository", "add", name, at, "--password", "file:"+password)
	}
	wantOutput(t, add("offsite", secret), "made repository ", " at "+at+"\nadded repository offsite\n")
	wantOutput(t, add("offsite", secret), "opened repository ", " at "+at+"\nrepository offsite was recorded already\n")
	wantOutput(t, add("second", secret), "opened repository ", " at "+at+"\nadded repository second\n")
	if got := h.Must(t, "repository", "ls", "-q"); got != "offsite\nsecond" {
		t.Errorf("the repositories are %q", got)
	}

	// The disk of the repository is not mounted: no name makes another repository in its place.
	rename(t, at, at+".away")
	wantError(t, add("third", secret), "drover: repository "+at+": there is no repository, and it is not made again, "+
		"because it is recorded as offsite (mount its disk, or use another URL)")
	rename(t, at+".away", at)

	other := filepath.Join(h.Dir, "other")
	writePassword(t, other, "of another repository")
	wantError(t, add("third", other), "drover: repository "+at+": the password is wrong (correct the password file or program)")
	wantError(t, add("offsite", other), "drover: repository offsite exists, at "+at+
		", with another URL, password or credentials (use another name)")
	var list []dataset.Repository
	h.JSON(t, &list, "repository", "ls")
	if r := list[0]; r.URL != at || r.Password.File != secret || r.By == "" || r.Created.IsZero() {
		t.Errorf("the record is %+v", list)
	}

	pack := backup(t, at, secret)
	wantOutput(t, h.Exec(t, "repository", "check", "offsite", "--read-data", "100"), "repository offsite (",
		"): no data is missing, and 100% of the data was read without errors\n")
	damagePack(t, pack)
	wantError(t, h.Exec(t, "repository", "check", "offsite", "--read-data", "100"), "drover: repository "+at+
		": its data are damaged: pack "+filepath.Base(pack)+" is damaged (keep the other files, and see restic's manual "+
		"on how to repair a repository)")

	h.Must(t, "repository", "rm", "second", "--yes")
	if got, want := h.Must(t, "repository", "rm", "offsite", "--yes"),
		"removed repository offsite: its data stays at "+at; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, file := range []string{pack, filepath.Join(at, "config"), secret} {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("the removal of the record removed data: %v", err)
		}
	}
	if got := h.Must(t, "repository", "ls", "-q"); got != "" {
		t.Errorf("the repositories are %q", got)
	}
	for _, text := range []string{"correct horse", "of another repository"} {
		if strings.Contains(h.Log(), text) {
			t.Errorf("the log has a password: %s", h.LogTail(20))
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func writePassword(t *testing.T, path, password string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantOutput fails unless a command succeeded and its output begins and ends with texts.
func wantOutput(t *testing.T, r host.Result, begin, end string) {
	t.Helper()
	if r.Exit != 0 || !strings.HasPrefix(r.Out, begin) || !strings.HasSuffix(r.Out, end) {
		t.Errorf("exit %d: %q %q, want %q…%q", r.Exit, r.Out, r.Err, begin, end)
	}
}

// wantError fails unless a command failed with exactly this error.
func wantError(t *testing.T, r host.Result, want string) {
	t.Helper()
	if r.Exit != 1 || r.Err != want+"\n" {
		t.Errorf("exit %d: %q, want %q", r.Exit, r.Err, want)
	}
}

// backup puts a file into a repository with restic, and returns the largest pack, which has the content of the file.
func backup(t *testing.T, at, secret string) (pack string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), treetest.Bytes(1, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "restic", "--repo", at, "--password-file", secret, "--no-cache", "backup", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("restic: %v\n%s", err, out)
	}
	packs, err := filepath.Glob(filepath.Join(at, "data", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	var size int64
	for _, file := range packs {
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > size {
			pack, size = file, st.Size()
		}
	}
	return pack
}

// damagePack changes the first half of a file of a repository, and keeps its length.
func damagePack(t *testing.T, pack string) {
	t.Helper()
	content, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(content)/2; at += 1 << 10 {
		content[at] ^= 1
	}
	if err := os.Chmod(pack, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pack, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
