package remoteserver_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/agent/remoteserver"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.MainInMemory(m)) }

// records are the records of control. Tests with requests in progress change them with set and fail.
type records struct {
	mu           sync.Mutex
	grants       []dataset.Grant
	repositories []dataset.Repository
	err          error
	reads        int
	reading      func() // if not nil, is called by each read
}

func (r *records) Grants(context.Context) ([]dataset.Grant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if r.reading != nil {
		r.reading()
	}
	return r.grants, r.err
}

func (r *records) set(grants ...dataset.Grant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants = grants
}

// with returns the grants with a change of the first one.
func (r *records) with(change func(*dataset.Grant)) []dataset.Grant {
	list := slices.Clone(r.grants)
	change(&list[0])
	return list
}

func (r *records) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *records) Repositories(context.Context) ([]dataset.Repository, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.repositories, r.err
}

const secret = "drover-grant-of-the-test"

// steppingClock advances when a request waits. A check of a request in progress waits until the test advances the
// clock.
type steppingClock struct{ *clock.Fake }

func (c steppingClock) After(d time.Duration) <-chan time.Time {
	if d == remoteserver.MaxAge {
		return c.Fake.After(d)
	}
	c.Advance(d)
	over := make(chan time.Time, 1)
	over <- c.Now()
	return over
}

type world struct {
	*testing.T
	*records
	clock *clock.Fake
	log   *logtest.Hook
	url   string
}

func serve(t *testing.T) *world {
	t.Helper()
	start := time.Now().Add(-time.Hour).UTC()
	sum := sha256.Sum256([]byte(secret))
	w := &world{T: t, clock: clock.NewFake(start.Add(time.Hour)), records: &records{}}
	for _, name := range []string{"team", "other"} {
		dir := filepath.Join(t.TempDir(), name)
		restictest.Make(t, dir, "password")
		w.repositories = append(w.repositories, dataset.Repository{Name: name, URL: dir, Created: start})
	}
	w.grants = []dataset.Grant{
		{Name: "ann", Repository: "team", Push: true, SecretHash: hex.EncodeToString(sum[:]), Created: start},
		{Name: "bob", Repository: "other", SecretHash: strings.Repeat("0", 64), Created: start},
	}
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	w.log = hook
	s := httptest.NewServer(remoteserver.New(remoteserver.Deps{Records: w.records, Clock: steppingClock{w.clock}, Log: log}))
	t.Cleanup(s.Close)
	w.url = s.URL
	return w
}

// want fails unless a request gets a status.
func (w *world) want(status int, method, path, user, secret string) {
	w.Helper()
	r, err := http.NewRequestWithContext(w.Context(), method, w.url+path, strings.NewReader(""))
	if err != nil {
		w.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, secret)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != status {
		w.Errorf("%s %s as %q: got %d %q, want %d", method, path, user, res.StatusCode, text, status)
	}
}

// Only the secret of a grant admits to its repository.
func TestAuthentication(t *testing.T) {
	w := serve(t)
	w.want(200, "GET", "/ann/config", "ann", secret)
	for _, c := range []struct{ path, user, secret string }{
		{"/ann/config", "", ""}, {"/ann/config", "ann", ""}, {"/ann/config", "ann", "wrong"}, {"/ann/config", "bob", secret},
		{"/bob/config", "ann", secret}, {"/bob/config", "bob", secret}, {"/cid/config", "cid", secret}, {"/cid/config", "cid", ""},
		{"/", "", ""}, {"//config", "", secret}, {"/ann/config", "ann", strings.Repeat("0", 64)}, {"/bob/config", "bob", strings.Repeat("0", 64)},
	} {
		w.want(401, "GET", c.path, c.user, c.secret)
	}
	w.want(403, "GET", "/ann", "ann", secret) // restic init
	w.want(404, "GET", "/ann/../bob/config", "ann", secret)
	for _, e := range w.log.AllEntries() {
		if text, _ := e.String(); strings.Contains(text, secret) {
			t.Errorf("the log has the secret: %s", text)
		}
	}
}

// A grant that was removed, has expired, lost a right or lost its repository is refused within seconds.
func TestChangesOfGrants(t *testing.T) {
	w := serve(t)
	get := func(status int) {
		t.Helper()
		w.want(status, "GET", "/ann/config", "ann", secret)
	}
	get(200)
	get(200)
	if w.reads != 1 {
		t.Errorf("control was asked %d times, want once", w.reads)
	}
	all, repositories := w.grants, w.repositories
	w.grants = w.grants[1:]
	w.clock.Advance(4 * time.Second)
	get(401)
	w.grants = all // a new grant is known at once
	get(200)
	w.repositories = w.repositories[1:]
	w.clock.Advance(4 * time.Second)
	get(401)
	w.repositories = append([]dataset.Repository{}, repositories...)
	w.repositories[0].Created = w.clock.Now() // another repository with the same name
	w.clock.Advance(4 * time.Second)
	get(401)
	w.repositories = repositories
	w.grants[0].Expires = w.clock.Now().Add(10 * time.Second)
	w.clock.Advance(4 * time.Second)
	get(200)
	w.clock.Advance(6 * time.Second)
	get(410)
}

// While control cannot be asked, every request is refused, also one with a grant that was valid before.
func TestControlIsUnreachable(t *testing.T) {
	w := serve(t)
	w.want(200, "GET", "/ann/config", "ann", secret)
	w.err = errors.New("control does not answer")
	w.clock.Advance(4 * time.Second)
	w.want(503, "GET", "/ann/config", "ann", secret)
	w.want(503, "GET", "/cid/config", "cid", "wrong")
	w.want(401, "GET", "/ann/config", "", "")
	w.err = nil
	w.clock.Advance(4 * time.Second)
	w.want(200, "GET", "/ann/config", "ann", secret)
}

// A request without a secret costs nothing: control is not asked.
func TestRequestWithoutSecret(t *testing.T) {
	w := serve(t)
	w.want(401, "GET", "/ann/config", "", "")
	if w.reads != 0 {
		t.Errorf("control was asked %d times", w.reads)
	}
}

// Requests that wait for a read of the records share its result. If control does not answer in time, they do not try it
// one after the other.
func TestSlowControl(t *testing.T) {
	w := serve(t)
	begun, proceed := make(chan struct{}, 10), make(chan struct{})
	w.err = errors.New("control does not answer")
	w.reading = func() {
		begun <- struct{}{}
		<-proceed
		w.clock.Advance(10 * time.Second)
	}
	var all sync.WaitGroup
	all.Go(func() { w.want(503, "GET", "/ann/config", "ann", secret) })
	<-begun
	for range 5 {
		all.Go(func() { w.want(503, "GET", "/ann/config", "ann", secret) })
	}
	time.Sleep(200 * time.Millisecond) // the requests arrive
	close(proceed)
	all.Wait()
	if w.reads != 1 {
		t.Errorf("control was asked %d times, want once", w.reads)
	}
}

// The holder of a grant can have a limited number of requests at once, also if it does not finish them.
func TestRequestsAtOnce(t *testing.T) {
	w := serve(t)
	begin := func(method, path string) (status int) {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		login := base64.StdEncoding.EncodeToString([]byte("ann:" + secret))
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: a\r\nAuthorization: Basic %s\r\nContent-Length: 100\r\n"+
			"Expect: 100-continue\r\n\r\n", method, path, login)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	for range remoteserver.MaxRequests {
		if got := begin("POST", "/ann/index/"+strings.Repeat("0", 64)); got != 100 {
			t.Fatalf("got status %d, want 100", got)
		}
	}
	w.want(503, "GET", "/ann/config", "ann", secret)
	w.clock.Advance(time.Hour)
	w.want(503, "GET", "/ann/config", "ann", secret)
	list := slices.Clone(w.grants)
	list[1].SecretHash = list[0].SecretHash
	w.set(list...)
	w.want(200, "GET", "/bob/config", "bob", secret)
}

// The log has a line for each snapshot that another cluster stores or removes.
func TestLog(t *testing.T) {
	w := serve(t)
	sum := sha256.Sum256(nil)
	path := "/ann/snapshots/" + hex.EncodeToString(sum[:])
	w.want(200, "POST", path, "ann", secret)
	w.want(200, "DELETE", path, "ann", secret)
	w.want(404, "DELETE", path, "ann", secret)
	w.grants[0].Push = false
	w.clock.Advance(4 * time.Second)
	w.want(403, "POST", path, "ann", secret)
	var lines []string
	for _, e := range w.log.AllEntries() {
		if e.Level <= logrus.InfoLevel {
			lines = append(lines, e.Message)
		}
	}
	want := "another cluster stored a snapshot in a repository; another cluster removed a snapshot from a repository"
	if got := strings.Join(lines, "; "); got != want {
		t.Errorf("got %q", got)
	}
}

// The authority is kept. Its certificates are for one host, and are renewed.
func TestAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "remotes")
	clk := clock.NewFake(time.Now())
	open := func(host string) *remoteserver.Authority {
		t.Helper()
		a, err := remoteserver.OpenAuthority(dir, host, clk)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	leaf := func(a *remoteserver.Authority) *x509.Certificate {
		t.Helper()
		c, err := a.TLS().GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	a := open("nas.example.com")
	public, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || strings.Contains(string(public), "PRIVATE") {
		t.Fatalf("ca.pem: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(public)
	verify := func(c *x509.Certificate, host string) error {
		_, err := c.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: clk.Now()})
		return err
	}
	if info, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca-key.pem: %v, %v", info, err)
	}
	first := leaf(a)
	if err := verify(first, "nas.example.com"); err != nil {
		t.Error(err)
	}
	if verify(first, "other.example.com") == nil {
		t.Error("the certificate is valid for another host")
	}
	clk.Advance(15 * 24 * time.Hour)
	if !leaf(a).Equal(first) {
		t.Error("a new certificate was issued too early")
	}
	clk.Advance(10 * 24 * time.Hour)
	if second := leaf(a); second.Equal(first) || verify(second, "nas.example.com") != nil {
		t.Error("the certificate was not renewed")
	}
	if err := verify(leaf(open("192.0.2.1")), "192.0.2.1"); err != nil {
		t.Errorf("after the address changed: %v", err)
	}
	if err := os.Truncate(filepath.Join(dir, "ca-key.pem"), 100); err != nil {
		t.Fatal(err)
	}
	_, err = remoteserver.OpenAuthority(dir, "nas.example.com", clk)
	if dataset.KindOf(err) != dataset.ErrCorrupt || !strings.Contains(err.Error(), "ca-key.pem is damaged") {
		t.Errorf("got %v", err)
	}
}

// upload begins to upload a file with a grant, and returns a function that waits for the status of the answer.
func (w *world) upload(name, secret string) (body *io.PipeWriter, answer func() int) {
	w.Helper()
	read, body := io.Pipe()
	w.Cleanup(func() { body.Close() })
	r, err := http.NewRequestWithContext(w.Context(), http.MethodPost, w.url+"/"+name+"/index/"+strings.Repeat("0", 64), read)
	if err != nil {
		w.Fatal(err)
	}
	r.ContentLength = 1 << 20
	r.SetBasicAuth(name, secret)
	status := make(chan int, 1)
	go func() {
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			w.Errorf("no answer: %v", err)
			status <- 0
			return
		}
		_ = res.Body.Close()
		status <- res.StatusCode
	}()
	if _, err := body.Write(make([]byte, 1000)); err != nil {
		w.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); len(w.index()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatal("the upload does not begin")
		}
	}
	return body, func() int {
		w.Helper()
		select {
		case got := <-status:
			return got
		case <-time.After(20 * time.Second):
			w.Error("the upload did not end")
			return 0
		}
	}
}

// index returns the files in the folder index of the repository team.
func (w *world) index() []os.DirEntry {
	w.Helper()
	list, err := os.ReadDir(filepath.Join(w.repositories[0].URL, "index"))
	if err != nil {
		w.Fatal(err)
	}
	return list
}

// An upload in progress ends within seconds after its grant was removed or has expired, also if the client sends
// nothing. It leaves no file. The answer says why. The upload of another grant continues.
func TestUploadEndsWithItsGrant(t *testing.T) {
	for what, c := range map[string]struct {
		change func(w *world)
		status int
	}{
		"removed":  {func(w *world) { w.set(w.grants[1:]...) }, 401},
		"replaced": {func(w *world) { w.set(w.with(func(g *dataset.Grant) { g.SecretHash = strings.Repeat("0", 64) })...) }, 401},
		"no push":  {func(w *world) { w.set(w.with(func(g *dataset.Grant) { g.Push = false })...) }, 401},
		"expired":  {func(w *world) { w.set(w.with(func(g *dataset.Grant) { g.Expires = w.clock.Now() })...) }, 410},
		"unknown":  {func(w *world) { w.fail(errors.New("control does not answer")) }, 503},
		"halted":   {func(w *world) { w.fail(dataset.Errorf(dataset.ErrConflict, "the store is inconsistent")) }, 503},
	} {
		t.Run(what, func(t *testing.T) {
			w := serve(t)
			_, answer := w.upload("ann", secret)
			c.change(w)
			rounds := 40 // more than a minute
			if what == "halted" {
				rounds = 10
			}
			for range rounds {
				time.Sleep(5 * time.Millisecond)
				w.clock.Advance(2 * time.Second)
			}
			if got := answer(); got != c.status {
				t.Errorf("got status %d, want %d", got, c.status)
			}
			if left := w.index(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A download in progress ends, too.
func TestDownloadEndsWithItsGrant(t *testing.T) {
	w := serve(t)
	content := make([]byte, 64<<20)
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(w.repositories[0].URL, "index", name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/ann/index/"+name, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("ann", secret)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	w.set(w.grants[1:]...)
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		w.clock.Advance(2 * time.Second)
	}
	time.Sleep(100 * time.Millisecond)
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("the download continued: %d bytes", n)
	}
}

// An upload goes on while control cannot be asked for some seconds.
func TestUploadContinuesWhileControlRestarts(t *testing.T) {
	w := serve(t)
	body, answer := w.upload("ann", secret)
	w.fail(errors.New("control does not answer"))
	for range 10 {
		time.Sleep(5 * time.Millisecond)
		w.clock.Advance(2 * time.Second)
	}
	w.fail(nil)
	for range 30 {
		time.Sleep(5 * time.Millisecond)
		w.clock.Advance(2 * time.Second)
	}
	if _, err := body.Write(make([]byte, 1<<20-1000)); err != nil {
		t.Fatal(err)
	}
	if got := answer(); got != 400 { // the name is not that of the content
		t.Errorf("got status %d, want 400", got)
	}
}

// A server removes at its start what its uploads have left before a crash, also in a repository without a grant. It
// waits for control. It removes the files of other servers when they are old.
func TestLeftoversOfACrash(t *testing.T) {
	w := serve(t)
	w.grants = nil
	w.err = errors.New("control does not answer")
	w.repositories = append(w.repositories, dataset.Repository{Name: "absent", URL: filepath.Join(t.TempDir(), "absent")},
		dataset.Repository{Name: "bucket", URL: "s3:https://s3.example.com/b"})
	left := func(server string) (exists func() bool) {
		t.Helper()
		file := filepath.Join(w.repositories[0].URL, "index", strings.Repeat("0", 64)+".drover-upload-"+server+"-X")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		made := w.clock.Now().Add(24 * time.Hour) // the clock of the other server differs
		if err := os.Chtimes(file, made, made); err != nil {
			t.Fatal(err)
		}
		return func() bool { _, err := os.Stat(file); return err == nil }
	}
	own, other := left("me"), left("other")
	ctx, cancel := context.WithCancel(t.Context())
	log, lines := logtest.NewNullLogger()
	s := remoteserver.New(remoteserver.Deps{Records: w.records, Clock: w.clock, Log: log, ID: "me"})
	var all sync.WaitGroup
	all.Go(func() { s.Run(ctx) })
	advanceUntil := func(what string, d time.Duration, done func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
			w.clock.Advance(d)
		}
	}
	time.Sleep(50 * time.Millisecond)
	if !own() {
		t.Error("the file was removed although control does not answer")
	}
	w.fail(nil)
	advanceUntil("the file of this server stays", time.Minute, func() bool { return !own() })
	if !other() {
		t.Error("a young file of another server was removed")
	}
	advanceUntil("an old file of another server stays", time.Hour, func() bool { return !other() })
	cancel()
	all.Wait()
	for _, e := range lines.AllEntries() {
		if e.Data["repository"] != "team" && e.Data["repository"] != "other" { // these were still swept
			t.Errorf("the log has %q about %v", e.Message, e.Data["repository"])
		}
	}
}

// The log has a warning about refused secrets at once, and then at most one a minute with the number of them. It names
// the address and the grant, and has no secret. A request without a secret is no attempt.
func TestRefusedSecretsAreLogged(t *testing.T) {
	w := serve(t)
	warnings := func() (out []string) {
		for _, e := range w.log.AllEntries() {
			if text, _ := e.String(); strings.Contains(text, "guess") {
				t.Errorf("the log has the secret: %s", text)
			}
			if e.Level == logrus.WarnLevel {
				out = append(out, fmt.Sprint(e.Data["count"], " ", e.Data["grant"], " ", e.Data["from"]))
			}
		}
		return out
	}
	want := func(lines ...string) {
		t.Helper()
		if got := warnings(); !slices.Equal(got, lines) {
			t.Errorf("got %q, want %q", got, lines)
		}
	}
	w.want(401, "GET", "/ann/config", "", "")
	w.want(200, "GET", "/ann/config", "ann", secret)
	want()
	for range 5 {
		w.want(401, "GET", "/ann/config", "ann", "guess")
	}
	want("1 ann 127.0.0.1")
	w.clock.Advance(time.Minute)
	w.want(401, "GET", "/Guess-guess_guess/config", "Guess-guess_guess", "guess") // the secret is in a wrong place
	want("1 ann 127.0.0.1", "5  127.0.0.1")
	w.clock.Advance(time.Minute)
	w.want(401, "GET", "/bob/config", "ann", secret)
	want("1 ann 127.0.0.1", "5  127.0.0.1", "1 bob 127.0.0.1")
}
