package lease

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// A promise counts only for the node that answers. If another node answers at the address, according to its
// certificate or to its answer, the expected node has promised nothing.
func TestI1AnswersOfOthers(t *testing.T) {
	now := clock.System{}.Now()
	ca, err := pki.Create(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	member := func(id uuid.UUID) *pki.Credentials {
		p, err := ca.Issue(pki.Identity{Cluster: ca.Cluster(), Kind: pki.Node, Node: id, Name: "host"}, now)
		if err != nil {
			t.Fatal(err)
		}
		return pki.NewCredentials(p, clock.System{}, nil)
	}
	wanted, other := uuid.New(), uuid.New()
	for name, c := range map[string]struct {
		cert, says uuid.UUID
		status     int
		want       bool
	}{
		"the node itself":                      {wanted, wanted, http.StatusOK, true},
		"the node itself, without its name":    {wanted, uuid.Nil, http.StatusOK, false},
		"another node":                         {other, other, http.StatusOK, false},
		"another one that says it is that one": {other, wanted, http.StatusOK, false},
		"another one that wants nothing of it": {other, uuid.Nil, http.StatusForbidden, false},
		"one that says it is another":          {wanted, other, http.StatusOK, false},
		"without a certificate":                {uuid.Nil, wanted, http.StatusOK, true},
		"another one without":                  {uuid.Nil, other, http.StatusOK, false},
		"somebody":                             {uuid.Nil, uuid.Nil, http.StatusOK, false},
	} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			if c.status != http.StatusOK {
				_ = json.NewEncoder(w).Encode(dataset.ProblemOf(dataset.Errorf(dataset.ErrForbidden, "no")))
				return
			}
			_ = json.NewEncoder(w).Encode(Answer{Node: c.says, Duration: dataset.Duration(time.Second)})
		}))
		var rt http.RoundTripper = plain{}
		if c.cert != uuid.Nil {
			s.Listener = tls.NewListener(s.Listener, member(c.cert).Server(pki.Node))
			rt = &http.Transport{TLSClientConfig: member(uuid.New()).Client(pki.Node), DisableKeepAlives: true}
		}
		s.Start()
		address := s.Listener.Addr().String()
		got, err := Ask(t.Context(), rt, address, wanted, Request{})
		if (err == nil) != c.want || err != nil && (!errors.Is(err, dataset.ErrOffline) || got.Duration != 0) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		s.Close()
	}
}

// plain is a connection without certificates.
type plain struct{}

func (plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "http"
	return http.DefaultTransport.RoundTrip(r)
}
