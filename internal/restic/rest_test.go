package restic_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/backupserver"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// restServer starts a server with TLS, a user and a password, and returns the options of a repository there.
func restServer(t *testing.T, flags ...string) (*backupserver.Server, restic.Options) {
	t.Helper()
	s := backupserver.PrivateREST(t, flags...)
	o := options(t)
	o.URL, o.CredentialsFile = s.URL, s.CredentialsFile
	if _, err := open(t, o).Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, o
}

// The password of a server reaches restic in a file without a name: neither the arguments nor the environment has it.
func TestServerPassword(t *testing.T) {
	_, o := restServer(t)
	runner := &fakes.Recorder{Next: &run.System{}}
	r, err := restic.New(t.Context(), runner, o)
	require.NoError(t, err)
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	target := t.TempDir()
	require.NoError(t, r.Restore(t.Context(), b.ID, target))
	if got, err := os.ReadFile(filepath.Join(target, "data", "a")); err != nil || string(got) != "content of a" {
		t.Errorf("got %q, %v", got, err)
	}
	require.NoError(t, r.Remove(t.Context(), b.ID))
	for _, c := range runner.Calls() {
		if text := strings.Join(append(c.Args, c.Env...), " "); strings.Contains(text, backupserver.Password) {
			t.Errorf("restic gets the password in %s", text)
		}
	}
}

// Each refusal of a server becomes one line that says what to do, and has no secret.
func TestRefusedByServer(t *testing.T) {
	s, o := restServer(t)
	check := func(o restic.Options, kind *dataset.Kind, want string) {
		t.Helper()
		_, err := open(t, o).Backups(t.Context())
		if dataset.KindOf(err) != kind || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), backupserver.Password) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v (%v), want %s", err, dataset.KindOf(err), want)
		}
	}
	wrong := o
	wrong.CredentialsFile = write(t, filepath.Join(t.TempDir(), "wrong"), "ann:"+backupserver.Password)
	check(wrong, dataset.ErrForbidden, "its certificate is not trusted (renew it, or add its authority")
	for code, want := range map[int]string{401: "it refuses the access", 507: "it has no space left"} {
		s.Fail(func(w http.ResponseWriter, r *http.Request) bool {
			refuse := r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/data/")
			if refuse {
				http.Error(w, "", code)
			}
			return refuse
		})
		begin := time.Now()
		_, _, err := open(t, o).Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("status %d: got %v, want %s", code, err, want)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("status %d: it took %s", code, took)
		}
	}
	s.Fail(nil)
	if left, err := os.ReadDir(filepath.Join(s.Data, "ann", "drover", "locks")); err != nil || len(left) > 0 {
		t.Errorf("locks: %v, %v", left, err)
	}
	for content, want := range map[string]string{
		backupserver.Password: "expected USER:PASSWORD", "ann:": "is empty",
		"ann:" + backupserver.Password + "\nno certificate": "expected certificates in PEM",
	} {
		write(t, wrong.CredentialsFile, content)
		check(wrong, dataset.ErrForbidden, want)
	}
}

// An append-only server accepts backups, and refuses to remove them or to prune. Nothing is damaged by the attempts. The
// refusal is no failure to open the repository.
func TestAppendOnlyServer(t *testing.T) {
	s, o := restServer(t, "--append-only")
	o.Ended = func(err error) {
		if err != nil {
			t.Errorf("it counts as not opened: %v", err)
		}
	}
	r := open(t, o)
	var ids []string
	for range 2 {
		b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
		require.NoError(t, err)
		ids = append(ids, b.ID)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, restic.ErrAppendOnly) || dataset.KindOf(err) != dataset.ErrForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("remove", r.Remove(t.Context(), ids...))
	// Its owner removes a backup, so that there is data to prune.
	require.NoError(t, os.RemoveAll(filepath.Join(s.Data, "ann", "drover", "snapshots")))
	refused("prune", r.Prune(t.Context()))
	require.NoError(t, r.Check(t.Context(), 100))
	_, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
}

// restOptions returns the options of a repository on a server that does not run.
func restOptions(t *testing.T) restic.Options {
	t.Helper()
	o := options(t)
	o.URL = "rest:https://127.0.0.1:1/ann"
	o.CredentialsFile = write(t, filepath.Join(t.TempDir(), "credentials"), "ann:"+backupserver.Password)
	return o
}

// The statuses of a server are recognized in the messages of restic 0.14.
func TestStatuses(t *testing.T) {
	o := restOptions(t)
	for text, want := range map[string]string{
		"server response unexpected: 401 Unauthorized (401)":         "it refuses the access",
		"server response unexpected: 403 Forbidden (403)":            "it refuses the access",
		"server response unexpected: 503 Service Unavailable (503)":  "it does not answer",
		"server response unexpected: 507 Insufficient Storage (507)": "it has no space left",
	} {
		runner := fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
			if c.Args[0] == "version" {
				return (&run.System{}).Run(ctx, c)
			}
			e := &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 1, Stderr: "Fatal: unable to save snapshot: " + text + " " + backupserver.Password}
			return run.Result{}, e
		})
		r, err := restic.New(t.Context(), runner, o)
		require.NoError(t, err)
		_, err = r.Backups(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), backupserver.Password) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// Names of files can contain any text. Only a message of restic about a request is a refusal.
func TestNameOfFileIsNoRefusal(t *testing.T) {
	o := restOptions(t)
	const retry = " returned error, retrying after 552.330144ms: "
	for line, refused := range map[string]bool{
		"Save(<lock/5f8bd12ca7>)" + retry + "server response unexpected: 403 Forbidden (403)":         true,
		"Load(<data/5f8bd12ca7>, 0, 0)" + retry + "unexpected HTTP response (401): 401 Unauthorized":  true,
		"List(lock)" + retry + "List failed, server response: 507 Insufficient Storage (507)":         true,
		"ignoring error for /data/List(lock)" + retry + "403 Forbidden: lsetxattr: permission denied": false,
		"List(lock) 403 Forbidden" + retry + "connection refused":                                     false,
		`{"message_type":"error","item":"/data/x\nList(lock)` + retry + `403 Forbidden","error":{}}`:  false,
	} {
		runner := fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
			if c.Args[0] == "version" {
				return (&run.System{}).Run(ctx, c)
			}
			_, err := io.WriteString(c.Stderr, line+"\n")
			return run.Result{}, err
		})
		r, err := restic.New(t.Context(), runner, o)
		require.NoError(t, err)
		if err := r.Check(t.Context(), 0); (err != nil) != refused {
			t.Errorf("%s: got %v", line, err)
		}
	}
}
