package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

func TestRequest(t *testing.T) {
	a, _ := create(t)
	req, err := pki.NewRequest()
	require.NoError(t, err)
	signed, err := a.Sign([]byte(req.PEM), nodeID, start)
	require.NoError(t, err)
	p, err := req.Pair(signed)
	if err != nil || p.Identity.Node != nodeID.Node || p.Identity.Cluster != a.Cluster() || p.Identity.Name != "a" {
		t.Fatal(p, err)
	}
	other, err := pki.NewRequest()
	require.NoError(t, err)
	if _, err := other.Pair(signed); !errors.Is(err, dataset.ErrCorrupt) {
		t.Error(err)
	}
	if _, err := req.Pair(pki.Signed{Chain: signed.Chain}); !errors.Is(err, dataset.ErrCorrupt) {
		t.Error(err)
	}
}

// The certificate contains the key of the request, and nothing else that the request asks for.
func TestRequestNames(t *testing.T) {
	a, _ := create(t)
	u, _ := url.Parse("drover://" + a.Cluster().String() + "/operator/admin/eve")
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	signed, err := a.Sign(
		csr(t,
			&x509.CertificateRequest{
				URIs:     []*url.URL{u},
				DNSNames: []string{"c1"},
				Subject:  pkix.Name{CommonName: "eve"},
			},
			key),
		nodeID, start)
	require.NoError(t, err)
	block, _ := pem.Decode([]byte(signed.Chain))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(c.URIs) != 1 || c.URIs[0].Path != "/node/"+nodeID.Node.String() || len(c.DNSNames) != 0 ||
		c.Subject.CommonName != "a" || c.IsCA {
		t.Errorf("%+v, %v", c, err)
	}
}

func csr(t *testing.T, r *x509.CertificateRequest, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestBadRequests(t *testing.T) {
	a, _ := create(t)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	good := csr(t, &x509.CertificateRequest{}, p256)
	block, _ := pem.Decode(good)
	block.Bytes[len(block.Bytes)-1] ^= 1
	for name, c := range map[string]struct {
		request []byte
		want    string
	}{
		"empty":       {nil, "expected PEM"},
		"too large":   {bytes.Repeat([]byte("a"), pki.MaxRequest+1), "is too large (16384 at most)"},
		"other block": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}), "expected PEM"},
		"cut off": {
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes[:50]}),
			"bad certificate request: ",
		},
		"another's":    {pem.EncodeToMemory(block), "bad certificate request: "},
		"another kind": {csr(t, &x509.CertificateRequest{}, rsaKey), "expected an ECDSA key on P-256"},
		"other curve":  {csr(t, &x509.CertificateRequest{}, p384), "expected an ECDSA key on P-256"},
	} {
		if _, err := a.Sign(c.request, nodeID, start); !errors.Is(err, dataset.ErrInvalid) ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	a, _ := create(t)
	for _, id := range []pki.Identity{
		{}, {Kind: pki.Node, Name: "a"}, {Kind: pki.Control}, {Kind: pki.Control, Name: "a/b"},
		{Kind: pki.Control, Name: ".."},
		{Kind: pki.Operator, Name: "a"}, {Kind: pki.Operator, Name: "a", Role: "root"},
		{Kind: pki.Operator, Role: pki.Admin, Name: strings.Repeat("a", 65)},
		{Kind: "guard", Name: "a"}, {Cluster: uuid.New(), Kind: pki.Control, Name: "a"},
		{Kind: pki.Node, Node: uuid.New(), Name: "a b"},
	} {
		if _, err := a.Issue(id, start); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%+v: %v", id, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		id := pki.Identity{
			Kind: rapid.SampledFrom([]pki.Kind{pki.Control, pki.Node, pki.Operator}).Draw(t, "kind"),
			Name: rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}`).Draw(t, "name"),
		}
		switch id.Kind {
		case pki.Node:
			id.Node = uuid.New()
		case pki.Operator:
			id.Role = rapid.SampledFrom(pki.Roles()).Draw(t, "role")
		}
		p, err := a.Issue(id, start)
		require.NoError(t, err)
		id.Cluster = a.Cluster()
		if got, err := pki.IdentityOf(p.Chain[0]); err != nil || got != id || got.String() != id.String() {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

func TestStrangeURIs(t *testing.T) {
	a, _ := create(t)
	c, n := a.Cluster().String(), uuid.NewString()
	for _, u := range []string{
		"drover://" + strings.ToUpper(c) + "/node/" + n, "drover://" + c + "/node/" + strings.ToUpper(n),
		"drover://" + c + "/node/" + n + "/",
		"drover://" + c + "/node//" + n, "drover://" + c + "/operator/alice",
		"drover://" + c + "/operator/admin/x/alice", "drover://" + c + "/control/a?x",
		"drover://u@" + c + "/control/a", "drover://" + c + ":1/control/a", "spiffe://" + c + "/control/a",
		"drover:///control/a", "drover://" + c + "/control/%61", "drover://" + c,
		"drover://" + c + "/control/x/a", "drover://" + c + "/node/x/" + n, "drover://" + c + "/control/a#f",
	} {
		parsed, err := url.Parse(u)
		require.NoError(t, err)
		if id, err := pki.IdentityOf(&x509.Certificate{
			URIs:    []*url.URL{parsed},
			Subject: pkix.Name{CommonName: "a"},
		}); err == nil {
			t.Errorf("%s: %+v", u, id)
		}
	}
}

func TestToken(t *testing.T) {
	a, _ := create(t)
	token := pki.NewToken(a.Fingerprint())
	got, err := pki.ParseToken(token.Reveal() + "\n")
	if err != nil || got != token || got.Hash() != token.Hash() || got.CA != a.Fingerprint() {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(token.Reveal(), "drover-join-")
	for _, s := range []string{
		fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q %x", token, token, token, token, token, token),
	} {
		if strings.Contains(s, secret[:20]) || !strings.Contains(s, "join token "+token.Hash()[:8]) {
			t.Error(s)
		}
	}
	if strings.Contains(token.Reveal(), token.Hash()) || pki.NewToken(a.Fingerprint()).Hash() == token.Hash() {
		t.Error("not a secret")
	}
	for _, bad := range []string{
		"", "drover-join-", secret, token.Reveal()[:80], token.Reveal() + "aa", token.Reveal() + "=",
		"drover-join-" + strings.Repeat("!", 86),
	} {
		if _, err := pki.ParseToken(bad); !errors.Is(err, dataset.ErrInvalid) ||
			len(bad) > 20 && strings.Contains(err.Error(), bad[12:]) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
