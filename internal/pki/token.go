package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// Token allows one host to join a cluster, once. It also contains the fingerprint of the cluster's root, so that the
// host recognizes the cluster.
type Token struct {
	secret [32]byte
	CA     Fingerprint
}

const tokenMark = "drover-join-"

// NewToken returns a new token for the cluster with a root.
func NewToken(ca Fingerprint) Token {
	t := Token{CA: ca}
	_, _ = rand.Read(t.secret[:]) // never fails: crypto/rand
	return t
}

// ParseToken parses a token that Reveal returned. It fails with ErrInvalid. The error does not contain the token.
func ParseToken(s string) (Token, error) {
	var t Token
	rest, marked := strings.CutPrefix(strings.TrimSpace(s), tokenMark)
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if !marked || err != nil || len(b) != len(t.secret)+len(t.CA) {
		return t, dataset.Errorf(dataset.ErrInvalid,
			"bad join token: expected the complete output of `drover node token`, %s…", tokenMark)
	}
	copy(t.CA[:], b[copy(t.secret[:], b):])
	return t, nil
}

// Reveal returns the whole token with its secret, for the host that joins.
func (t Token) Reveal() string {
	return tokenMark + base64.RawURLEncoding.EncodeToString(append(t.secret[:], t.CA[:]...))
}

// Hash is the stored form of a token: 64 hex digits of SHA-256, from which the token cannot be computed.
func (t Token) Hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}

// Format hides the secret when a token is printed by mistake.
func (t Token) Format(s fmt.State, _ rune) { fmt.Fprint(s, "join token ", t.Hash()[:8]) }
