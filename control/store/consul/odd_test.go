package consul_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
)

// odd is something that listens where Consul should, and answers everything but
// the question for the format in one way.
func odd(t *testing.T, answer http.HandlerFunc) (*consul.Store, *atomic.Int64) {
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
	return openWith(t, consul.Options{Addresses: []string{srv.URL}, Prefix: "p", LeaderTime: time.Millisecond}), &asked
}

// Whatever is answered in place of an answer, it is not taken for absence, for a
// conflict or for success, and what may have happened is not sent again.
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

// Answers to transactions that are none, or say something that is not known.
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
		_, err := s.Txn(t.Context(), []store.Check{{Key: "b"}}, []store.Write{{Key: "a"}})
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

// What one server may have received is not sent to another; what changes nothing
// is. Consul never says a token; should it, or something else, then no error does.
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
