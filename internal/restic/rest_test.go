package restic_test

import (
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/restserver"
	"github.com/droverhq/drover/internal/run"
)

const token = "drover-grant-of-the-test"

// restServer starts a server with TLS, and returns the options of its repository. *status, if not 0, is the answer to
// uploads of data.
func restServer(t *testing.T, status *int) (o restic.Options, dir string) {
	t.Helper()
	o = options(t)
	dir = o.URL
	restictest.Make(t, dir, password)
	d := restserver.Open(o.URL, clock.System{}, restserver.NewUploads("me"))
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, _ := r.BasicAuth(); user != "ann" || secret != token {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		if *status != 0 && r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/ann/data/") {
			http.Error(w, "", *status)
			return
		}
		if err := d.Serve(w, r, strings.TrimPrefix(r.URL.Path, "/ann/"), restserver.Access{Push: true}); err != nil {
			t.Errorf("the server failed: %v", err)
		}
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	o.CredentialsFile = write(t, filepath.Join(t.TempDir(), "token"), "ann:"+token+"\n"+string(ca))
	o.URL = "rest:" + s.URL + "/ann"
	return o, dir
}

// A token reaches restic in a file without a name: neither the arguments nor the environment has it.
func TestToken(t *testing.T) {
	var status int
	o, _ := restServer(t, &status)
	runner := &run.Recorder{Next: &run.System{}}
	r, err := restic.New(t.Context(), runner, o)
	must(t, err)
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	must(t, err)
	target := t.TempDir()
	must(t, r.Restore(t.Context(), b.ID, target))
	if got, err := os.ReadFile(filepath.Join(target, "data", "a")); err != nil || string(got) != "content of a" {
		t.Errorf("got %q, %v", got, err)
	}
	must(t, r.Remove(t.Context(), b.ID))
	for _, c := range runner.Calls() {
		if text := strings.Join(append(c.Args, c.Env...), " "); strings.Contains(text, token) {
			t.Errorf("restic gets the token in %s", text)
		}
	}
}

// Each refusal of a server becomes one line that says what to do, and has no secret.
func TestRefusedToken(t *testing.T) {
	var status int
	o, dir := restServer(t, &status)
	check := func(o restic.Options, kind *dataset.Kind, want string) {
		t.Helper()
		_, err := open(t, o).Backups(t.Context())
		if dataset.KindOf(err) != kind || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v (%v), want %s", err, dataset.KindOf(err), want)
		}
	}
	wrong := o
	wrong.CredentialsFile = write(t, filepath.Join(t.TempDir(), "wrong"), "ann:"+token)
	check(wrong, dataset.ErrForbidden, "its certificate is not trusted (append the certificate of its host")
	for code, want := range map[int]string{
		401: "it does not accept the token", 403: "the token lacks the right", 410: "the grant of the token has expired",
		507: "the quota of the grant is used up", 409: "a file in it is damaged",
	} {
		status = code
		begin := time.Now()
		_, _, err := open(t, o).Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("status %d: got %v, want %s", code, err, want)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("status %d: it took %s", code, took)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "locks")); err != nil || len(left) > 0 {
		t.Errorf("locks: %v, %v", left, err)
	}
	for content, want := range map[string]string{
		token: "expected USER:SECRET", "ann:": "is empty", "ann:" + token + "\nno certificate": "expected certificates in PEM",
	} {
		write(t, wrong.CredentialsFile, content)
		check(wrong, dataset.ErrForbidden, want)
	}
}

// The statuses of a server are recognized in the messages of restic 0.14.
func TestStatuses(t *testing.T) {
	var status int
	o, _ := restServer(t, &status)
	for text, want := range map[string]string{
		"server response unexpected: 401 Unauthorized (401)":         "it does not accept the token",
		"server response unexpected: 403 Forbidden (403)":            "the token lacks the right",
		"server response unexpected: 409 Conflict (409)":             "a file in it is damaged",
		"server response unexpected: 410 Gone (410)":                 "the grant of the token has expired",
		"server response unexpected: 503 Service Unavailable (503)":  "it does not answer",
		"server response unexpected: 507 Insufficient Storage (507)": "the quota of the grant is used up",
	} {
		runner := run.Func(func(ctx context.Context, c run.Command) (run.Result, error) {
			if c.Args[0] == "version" {
				return (&run.System{}).Run(ctx, c)
			}
			e := &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 1, Stderr: "Fatal: unable to save snapshot: " + text + " " + token}
			return run.Result{}, e
		})
		r, err := restic.New(t.Context(), runner, o)
		must(t, err)
		_, err = r.Backups(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// Names of files can contain any text. Only a message of restic about a request is a refusal.
func TestNameOfFileIsNoRefusal(t *testing.T) {
	var status int
	o, _ := restServer(t, &status)
	const retry = " returned error, retrying after 552.330144ms: "
	for line, refused := range map[string]bool{
		"Save(<lock/5f8bd12ca7>)" + retry + "server response unexpected: 403 Forbidden (403)":         true,
		"Load(<data/5f8bd12ca7>, 0, 0)" + retry + "unexpected HTTP response (401): 401 Unauthorized":  true,
		"List(lock)" + retry + "List failed, server response: 410 Gone (410)":                         true,
		"ignoring error for /data/List(lock)" + retry + "403 Forbidden: lsetxattr: permission denied": false,
		"List(lock) 403 Forbidden" + retry + "connection refused":                                     false,
		`{"message_type":"error","item":"/data/x\nList(lock)` + retry + `403 Forbidden","error":{}}`:  false,
	} {
		runner := run.Func(func(ctx context.Context, c run.Command) (run.Result, error) {
			if c.Args[0] == "version" {
				return (&run.System{}).Run(ctx, c)
			}
			_, err := io.WriteString(c.Stderr, line+"\n")
			return run.Result{}, err
		})
		r, err := restic.New(t.Context(), runner, o)
		must(t, err)
		if err := r.Check(t.Context(), 0); (err != nil) != refused {
			t.Errorf("%s: got %v", line, err)
		}
	}
}
