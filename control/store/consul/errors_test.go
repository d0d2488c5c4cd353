package consul_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	consultest "github.com/droverhq/drover/test/consul"
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
	if err := made.Check(t.Context()); err != nil {
		t.Fatal("the policy of the documentation is not enough:", err)
	}
	if err := made.Check(t.Context()); err != nil {
		t.Error("again:", err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
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
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
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
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
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
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
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
	if err := openWith(t, byName).Check(t.Context()); err != nil {
		t.Error("the server's name:", err)
	}
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
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
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
