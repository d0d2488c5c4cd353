package consul_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/require"
)

// says checks that an error is one line of that kind with these words, without the secret, and is neither absence nor
// a conflict.
func says(t *testing.T, err error, kind *dataset.Kind, secret string, words ...string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("no error; want %q", words)
		return
	case dataset.KindOf(err) != kind || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound):
		t.Errorf("%v: kind %v", err, dataset.KindOf(err))
	case strings.Contains(err.Error(), "\n") || secret != "" && strings.Contains(err.Error(), secret):
		t.Errorf("more than a line, or a secret: %v", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v: does not say %q", err, w)
		}
	}
}

func TestTokens(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	with := func(t *testing.T, prefix, token string) *consul.Store {
		return openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: prefix, Token: token})
	}
	made := with(t, "made", c.NewToken(consul.Policy("made")))
	require.NoErrorf(t, made.Check(t.Context()), "the policy of the documentation is not enough")
	assert.NoErrorf(t, made.Check(t.Context()), "again")
	put(t, made, "names/a", "1")
	put(t, made, "names/b", "1")
	put(t, made, "trash/a", "1")

	newToken := c.NewToken
	keys := `key_prefix "made/" { policy = "write" } `
	for name, c := range map[string]struct {
		rules string
		words []string
	}{
		"nothing":    {``, []string{"key:read on made/own/format", `key_prefix "made/" { policy = "write" }`}},
		"reads only": {`key_prefix "made/" { policy = "read" }`, []string{"key:write on made/own/check", `policy = "write"`}},
		"no session": {keys, []string{"session:write on made-sessions", `session "made-sessions" { policy = "write" }`}},
	} {
		t.Log(name)
		token := newToken(c.rules)
		says(t, with(t, "made", token).Check(t.Context()), dataset.ErrForbidden, token, c.words...)
	}
	// The catalog node exists by now. If it does not, the permission to create it is needed too.
	token := c.NewToken(`key_prefix "bare/" { policy = "write" } session "bare-sessions" { policy = "write" }`)
	says(t, with(t, "bare", token).Check(t.Context()), dataset.ErrForbidden, token, "node:write on bare-sessions")

	says(t, with(t, "made", "").Check(t.Context()), dataset.ErrForbidden, "", "key:read on made/own/format")
	const unknown = "0badc0de-0bad-c0de-0bad-c0de0badc0de"
	says(t, with(t, "made", unknown).Check(t.Context()), dataset.ErrForbidden, unknown, "does not know the token")

	// A key that may not be read is never reported as absent.
	token = c.NewToken(keys + `key_prefix "made/data/names/" { policy = "deny" }`)
	partly := with(t, "made", token)
	_, err := partly.List(t.Context(), "", "", 0)
	says(t, err, dataset.ErrForbidden, token, "key:read")
	_, err = partly.List(t.Context(), "names/", "", 0)
	says(t, err, dataset.ErrForbidden, token, "key:read")
	_, err = partly.List(t.Context(), "names/", "", 10)
	says(t, err, dataset.ErrForbidden, token, "key:read")
	_, err = partly.List(t.Context(), "", "", 10)
	says(t, err, dataset.ErrForbidden, token, "key:read")
	_, err = partly.GetMany(t.Context(), []string{"trash/a", "names/a", "names/none"})
	says(t, err, dataset.ErrForbidden, token, "key:read")
	_, err = partly.Get(t.Context(), "names/a")
	says(t, err, dataset.ErrForbidden, token, "key:read on made/data/names/a")
	_, err = partly.Txn(t.Context(), []store.Precondition{{Key: "names/c"}}, []store.Write{{Key: "x"}})
	says(t, err, dataset.ErrForbidden, token, "key:write on made/data/names/c")
	if _, err := partly.Get(t.Context(), "x"); !errors.Is(err, store.ErrNotFound) {
		t.Error("a transaction without the right to one of its keys was made:", err)
	}
}

// The policy in the documentation is the one used by the tests above.
func TestPolicyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/consul.md")
	require.NoError(t, err)
	if !strings.Contains(string(text), "```hcl\n"+consul.Policy("drover")+"```") {
		t.Errorf("docs/consul.md does not show\n%s", consul.Policy("drover"))
	}
}

func TestAnonymousToken(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	put(t, openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "p", Token: c.Token}), "names/a", "1")
	client := c.Client()
	policy := policyOf(t, client, `key_prefix "p/own/" { policy = "write" }`)
	attachAnonymous(t, client, policy)
	s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "p"})
	_, err := s.List(t.Context(), "names/", "", 0)
	says(t, err, dataset.ErrForbidden, "", "key:read on p/data/names/")
}

func TestTokenFileIsReadAgain(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	}
	first, second := c.NewToken(consul.Policy("p")), c.NewToken(consul.Policy("p"))
	write(first)
	s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "p", TokenFile: file})
	put(t, s, "a", "1")
	revoke(t, c.Client(), first)
	_, err := s.Get(t.Context(), "a")
	says(t, err, dataset.ErrForbidden, first, "does not know the token")
	write(second)
	put(t, s, "a", "2")
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	const secret = "s3cr3t-s3cr3t"
	for name, c := range map[string]struct {
		o     consul.Options
		words string
	}{
		"no address":     {consul.Options{}, "no address"},
		"no scheme":      {consul.Options{Addresses: []string{"127.0.0.1:8500"}}, "bad address"},
		"password":       {consul.Options{Addresses: []string{"https://user:" + secret + "@consul:8501"}}, "bad address"},
		"path":           {consul.Options{Addresses: []string{"https://consul:8501/x"}}, "without a path"},
		"no port":        {consul.Options{Addresses: []string{"https://consul"}}, "no port"},
		"bad prefix":     {consul.Options{Prefix: "a/b", Addresses: []string{"https://c:1"}}, "bad prefix"},
		"clear token":    {consul.Options{Addresses: []string{"http://192.0.2.1:8500"}, Token: secret}, "in the clear"},
		"odd token":      {consul.Options{Addresses: []string{"http://127.0.0.1:8500"}, Token: secret + "\nx"}, "characters"},
		"no token file":  {consul.Options{Addresses: []string{"https://c:1"}, TokenFile: filepath.Join(dir, "none")}, "no such file"},
		"empty token":    {consul.Options{Addresses: []string{"https://c:1"}, TokenFile: empty}, "is empty"},
		"no ca":          {consul.Options{Addresses: []string{"https://c:1"}, CAFile: filepath.Join(dir, "none")}, "no such file"},
		"ca is none":     {consul.Options{Addresses: []string{"https://c:1"}, CAFile: empty}, "no certificate in PEM"},
		"cert, no key":   {consul.Options{Addresses: []string{"https://c:1"}, CertFile: empty}, "belong together"},
		"cert is none":   {consul.Options{Addresses: []string{"https://c:1"}, CertFile: empty, KeyFile: empty}, "certificate " + empty},
		"ca for no one":  {consul.Options{Addresses: []string{"http://127.0.0.1:8500"}, CAFile: empty}, "no address is https"},
		"key of another": {otherKey(t), "certificate "},
	} {
		if c.o.Prefix == "" {
			c.o.Prefix = "p"
		}
		_, err := consul.Open(c.o)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		says(t, err, dataset.ErrInvalid, secret, c.words)
	}
}

func otherKey(t *testing.T) consul.Options {
	p := consultest.NewPKI(t, t.TempDir())
	cert, _ := p.Issue(t, "a", "")
	_, key := p.Issue(t, "b", "")
	return consul.Options{Addresses: []string{"https://c:1"}, CertFile: cert, KeyFile: key}
}

func TestTLS(t *testing.T) {
	c := consultest.Start(t, consultest.Options{TLS: true})
	cert, key := c.PKI.Issue(t, "drover", "")
	good := consul.Options{Addresses: c.Addresses(), Prefix: "p", CAFile: c.PKI.CA, CertFile: cert, KeyFile: key}
	s := openWith(t, good)
	require.NoError(t, s.Check(t.Context()))
	other := consultest.NewPKI(t, t.TempDir())
	otherCert, otherKey := other.Issue(t, "drover", "")
	change := func(f func(o *consul.Options)) consul.Options {
		o := good
		f(&o)
		return o
	}
	for name, c := range map[string]struct {
		o     consul.Options
		words []string
	}{
		"system's authorities": {change(func(o *consul.Options) { o.CAFile = "" }), []string{"not trusted here", "ca_file"}},
		"wrong authority":      {change(func(o *consul.Options) { o.CAFile = other.CA }), []string{"not trusted here", "ca_file"}},
		"wrong name":           {change(func(o *consul.Options) { o.ServerName = "server.dc2.consul" }), []string{"another name", "server_name"}},
		"no certificate":       {change(func(o *consul.Options) { o.CertFile, o.KeyFile = "", "" }), []string{"refused the handshake", "cert_file"}},
		"other's certificate":  {change(func(o *consul.Options) { o.CertFile, o.KeyFile = otherCert, otherKey }), []string{"refused the handshake"}},
		"plain http": {change(func(o *consul.Options) {
			o.Addresses = []string{strings.Replace(o.Addresses[0], "https", "http", 1)}
			o.CAFile, o.CertFile, o.KeyFile = "", "", ""
		}), []string{"wants https"}},
	} {
		err := openWith(t, c.o).Check(t.Context())
		t.Log(name, ":", err)
		says(t, err, dataset.ErrUnavailable, "", c.words...)
	}
	byName := change(func(o *consul.Options) { o.ServerName = "server1" })
	assert.NoErrorf(t, openWith(t, byName).Check(t.Context()), "the server's name")
}

func TestUnreachable(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	nobody := "http://" + c.Servers[0].IP + ":8599"
	says(t, openWith(t, consul.Options{Addresses: []string{nobody}, Prefix: "p"}).Check(t.Context()),
		dataset.ErrUnavailable, "", nobody+" cannot be reached", "refused")
	https := strings.Replace(c.Addresses()[0], "http", "https", 1)
	says(t, openWith(t, consul.Options{Addresses: []string{https}, Prefix: "p"}).Check(t.Context()),
		dataset.ErrUnavailable, "", "does not speak https")
	// A server that is unreachable next to a reachable one does no harm, not even to writes.
	s := openWith(t, consul.Options{Addresses: []string{nobody, c.Addresses()[0]}, Prefix: "p"})
	assert.NoError(t, s.Check(t.Context()))
	put(t, s, "a", "1")
}

// A server accepts requests and does not answer. The call ends in time, and its change may have happened.
func TestSilentServer(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "p", CallTime: 500 * time.Millisecond})
	put(t, s, "a", "1")
	c.Servers[0].Pause()
	_, err := s.Get(t.Context(), "a")
	says(t, err, dataset.ErrUnavailable, "", "no answer")
	_, err = s.Txn(t.Context(), nil, []store.Write{{Key: "a", Value: []byte("2")}})
	says(t, err, dataset.ErrUnavailable, "", "no answer")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c.Servers[0].Resume()
	put(t, s, "a", "3")
}

// odd is a server that listens instead of Consul. It answers everything except the question for the format in one
// way.
func odd(t *testing.T, answer http.HandlerFunc) (*consul.Store, *atomic.Int64) {
	t.Helper()
	return oddWith(t, consul.Options{LeaderTime: time.Millisecond}, answer)
}

func oddWith(t *testing.T, o consul.Options, answer http.HandlerFunc) (*consul.Store, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/own/format") {
			w.Header().Set("X-Consul-Index", "5")
			fmt.Fprint(w, `[{"Key":"p/own/format","Value":"ZHJvdmVyIHN0b3JlIDE=","ModifyIndex":5}]`)
			return
		}
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(srv.Close)
	o.Addresses, o.Prefix = []string{srv.URL}, "p"
	return openWith(t, o), &asked
}

// Whatever the answer is, it is not taken for absence, for a conflict or for success, and a request that may have
// been carried out is not sent again.
func TestOddAnswers(t *testing.T) {
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		words  string
	}{
		"no leader":       {status(500, "No cluster leader"), "no leader"},
		"leadership lost": {status(500, "rpc error making call: leadership lost while committing log"), "no leader"},
		"no servers":      {status(500, "No known Consul servers"), "reaches no server"},
		"busy":            {status(429, "Your IP is issuing too many concurrent connections, please rate limit your calls\n"), "http_max_conns_per_client"},
		"bad gateway":     {status(502, "<html>\nBad Gateway</html>"), "status 502"},
		"not found":       {status(404, "404 page not found"), "status 404"},
		"moved":           {status(204, ""), "status 204"},
		"long":            {status(500, strings.Repeat("x", 1<<20)), "status 500"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Consul-Index", "5")
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `[{"Key":`)
			panic(http.ErrAbortHandler)
		}, ""},
		"hung up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "gave no answer"},
	} {
		s, asked := odd(t, c.answer)
		_, err := s.Get(t.Context(), "a")
		says(t, err, dataset.ErrUnavailable, "", c.words)
		_, err = s.List(t.Context(), "a/", "", 0)
		says(t, err, dataset.ErrUnavailable, "", c.words)
		before := asked.Load()
		_, err = s.Txn(t.Context(), nil, []store.Write{{Key: "a"}})
		says(t, err, dataset.ErrUnavailable, "", c.words)
		if n := asked.Load() - before; n != 1 && name != "no leader" {
			t.Errorf("%s: a transaction was sent %d times", name, n)
		}
		if _, err := s.Watch(t.Context(), "a/", 5); err == nil || errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: watch: %v", name, err)
		}
		says(t, s.Renew(t.Context(), "6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1"), dataset.ErrUnavailable, "", c.words)
	}
}

// Invalid answers to transactions, or answers with an unknown meaning.
func TestOddTransactions(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		body string
	}{
		"empty":          {200, `{}`},
		"no json":        {200, `ok`},
		"no reason":      {409, `{"Errors":[]}`},
		"unknown reason": {409, `{"Errors":[{"OpIndex":0,"What":"failed kvs lookup: disk on fire"}]}`},
		"wrong place":    {409, `{"Errors":[{"OpIndex":77,"What":"key \"a\" exists"}]}`},
		"some unknown":   {409, `{"Errors":[{"OpIndex":0,"What":"key \"p/data/b\" exists"},{"OpIndex":1,"What":"odd"}]}`},
		"a proxy's":      {409, `<html>Conflict</html>`},
	} {
		s, _ := odd(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.code)
			fmt.Fprint(w, c.body)
		})
		_, err := s.Txn(t.Context(), []store.Precondition{{Key: "b"}}, []store.Write{{Key: "a"}})
		if err == nil || errors.Is(err, store.ErrConflict) || dataset.KindOf(err) != dataset.ErrUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, _ := odd(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		fmt.Fprint(w, "Request body(5 bytes) too large, max size: 4 bytes. See https://…")
	})
	if _, err := s.Txn(t.Context(), nil, []store.Write{{Key: "a"}}); !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "txn_max_req_len") {
		t.Error(err)
	}
}

// Callers that give up, at once or late, close no connection with a request on it: Consul accepts 200 connections
// from one client, and counts each one until its request is done.
func TestCallersInAHurry(t *testing.T) {
	var arrived, cut atomic.Int64
	s, _ := odd(t, func(w http.ResponseWriter, r *http.Request) {
		arrived.Add(1)
		select {
		case <-time.After(5 * time.Millisecond): // as long as a write takes
		case <-r.Context().Done():
			cut.Add(1)
		}
		w.Header().Set("X-Consul-Index", "5")
		fmt.Fprint(w, `[{"Key":"p/data/a","ModifyIndex":5}]`)
	})
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*time.Millisecond/4)
				_, err := s.Get(ctx, "a")
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if n, of := cut.Load(), arrived.Load(); n > 0 || of == 0 {
		t.Errorf("of 400 requests %d arrived, and of %d the connection ended under them", of, n)
	}
}

// However many transactions hang, and more of them wait for a connection, a session is renewed.
func TestRenewalsHaveRightOfWay(t *testing.T) {
	arrived, gone := make(chan struct{}, 2*consul.MaxConns), make(chan struct{})
	const session = "6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1"
	s, _ := odd(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/session/renew/") {
			fmt.Fprint(w, `[{"ID":"`+session+`"}]`)
			return
		}
		arrived <- struct{}{}
		<-gone
	})
	ctx, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { end(); close(gone); wg.Wait() })
	for range 2 * consul.MaxConns {
		wg.Go(func() { _, _ = s.Txn(ctx, nil, []store.Write{{Key: "a"}}) })
	}
	for range consul.MaxConns {
		<-arrived
	}
	assert.NoError(t, s.Renew(t.Context(), session))
	if n := len(arrived); n > 0 {
		t.Errorf("%d transactions more than there are connections for were sent", n)
	}
}

// A server that delays requests that need a leader, and says that it has none, is not called overloaded.
func TestHeldWithoutLeader(t *testing.T) {
	gone := make(chan struct{})
	s, _ := oddWith(t, consul.Options{CallTime: 2500 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/status/leader" {
			fmt.Fprint(w, `""`)
			return
		}
		select {
		case <-gone:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(gone) })
	_, err := s.Get(t.Context(), "a")
	says(t, err, dataset.ErrUnavailable, "", "no leader", "raft list-peers")
}

// Without a leader, the first request waits as long as an election may take, and later callers get an error soon.
// After an answer, each request waits again as before.
func TestNobodyWaitsForNothing(t *testing.T) {
	const leader = 3 * time.Second
	var mode atomic.Int32 // 0: delays everything, 1: slow, 2: answers at once
	gone := make(chan struct{})
	s, _ := oddWith(t, consul.Options{LeaderTime: leader}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/status/leader" {
			fmt.Fprint(w, `""`)
			return
		}
		held := (<-chan time.Time)(nil)
		switch mode.Load() {
		case 1:
			held = time.After(leader * 3 / 4)
		case 2:
			held = time.After(0)
		}
		select {
		case <-held:
			w.Header().Set("X-Consul-Index", "5")
			fmt.Fprint(w, `[{"Key":"p/data/a","ModifyIndex":5}]`)
		case <-gone:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(gone) })
	began := time.Now()
	for range 3 {
		_, err := s.Get(t.Context(), "a")
		says(t, err, dataset.ErrUnavailable, "", "no leader", "raft list-peers")
	}
	// If each waited as long as the first one, they would take 9 s.
	if took := time.Since(began); took < leader || took > 8*time.Second {
		t.Errorf("three requests took %s: want %s for the first, and not that again", took, leader)
	}
	mode.Store(2)
	for n := 0; ; n++ {
		if _, err := s.Get(t.Context(), "a"); err == nil {
			break
		} else if n == 5 {
			t.Fatal("it answers again, and its answer is not used:", err)
		}
	}
	mode.Store(1)
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Error("a slow answer of a server that answers:", err)
	}
}

// Whatever the answer to the request for a page is, it is not taken for an empty page.
func TestOddPages(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		body string
		kind *dataset.Kind
	}{
		"empty":            {200, `{}`, dataset.ErrUnavailable},
		"no json":          {200, `ok`, dataset.ErrUnavailable},
		"cut off":          {200, `{"Index":5,"Results":[`, dataset.ErrUnavailable},
		"no key":           {200, `{"Index":5,"Results":[{}]}`, dataset.ErrUnavailable},
		"not asked for":    {200, `{"Index":5,"Results":[{"KV":{"Key":"p/data/b/x","ModifyIndex":5}}]}`, dataset.ErrUnavailable},
		"left out":         {200, `{"Index":5,"Results":[],"ResultsFilteredByACLs":true}`, dataset.ErrForbidden},
		"refused":          {409, `{"Index":5,"Errors":[{"OpIndex":0,"What":"Permission denied: token lacks permission 'key:read'"}]}`, dataset.ErrForbidden},
		"refused oddly":    {409, `{"Index":5,"Errors":[{"OpIndex":0,"What":"on fire"}]}`, dataset.ErrUnavailable},
		"refused silently": {409, `{"Index":5}`, dataset.ErrUnavailable},
	} {
		s, _ := oddWith(t, consul.Options{Token: "some"}, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				w.Header().Set("X-Consul-Index", "5")
				fmt.Fprint(w, `["p/data/a/x"]`)
				return
			}
			w.WriteHeader(c.code)
			fmt.Fprint(w, c.body)
		})
		list, err := s.List(t.Context(), "a/", "", 10)
		if err == nil || len(list) != 0 || dataset.KindOf(err) != c.kind {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
}

func TestAnotherFormat(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "5")
		fmt.Fprint(w, `[{"Key":"p/own/format","Value":"ZHJvdmVyIHN0b3JlIDI=","ModifyIndex":5}]`)
	}))
	t.Cleanup(srv.Close)
	s := openWith(t, consul.Options{Addresses: []string{srv.URL}, Prefix: "p"})
	_, err := s.Txn(t.Context(), nil, []store.Write{{Key: "a"}})
	says(t, err, dataset.ErrUnsupported, "", `"drover store 2"`, `"drover store 1"`)
}

// A request that one server may have received is not sent to another one, unless it changes nothing. Consul never
// returns a token. If it or another server did, no error would contain it.
func TestSecondAddress(t *testing.T) {
	const secret = "5ec4e75e-5ec4-e75e-5ec4-e75e5ec4e75e"
	var asked [2]atomic.Int64
	var urls []string
	for n := range asked {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/own/format") {
				w.Header().Set("X-Consul-Index", "5")
				fmt.Fprint(w, `[{"Key":"p/own/format","Value":"ZHJvdmVyIHN0b3JlIDE=","ModifyIndex":5}]`)
				return
			}
			asked[n].Add(1)
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, "odd: "+r.Header.Get("X-Consul-Token"))
		}))
		t.Cleanup(srv.Close)
		urls = append(urls, srv.URL)
	}
	s := openWith(t, consul.Options{Addresses: urls, Prefix: "p", Token: secret})
	_, err := s.Txn(t.Context(), nil, []store.Write{{Key: "a"}})
	says(t, err, dataset.ErrUnavailable, secret, "odd: (token)")
	if a, b := asked[0].Load(), asked[1].Load(); a+b != 1 {
		t.Errorf("a transaction was sent %d and %d times", a, b)
	}
	_, err = s.Get(t.Context(), "a")
	says(t, err, dataset.ErrUnavailable, secret, "odd: (token)")
	if a, b := asked[0].Load(), asked[1].Load(); a+b != 3 {
		t.Errorf("with a read after it: %d and %d times", a, b)
	}
}
