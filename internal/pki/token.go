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

// Token lets one host join a cluster, once. It says as well how the host knows the
// cluster.
type Token struct {
	secret [32]byte
	CA     Fingerprint
}

const tokenMark = "drover-join-"

// NewToken makes a token for the cluster of a root.
func NewToken(ca Fingerprint) Token {
	t := Token{CA: ca}
	_, _ = rand.Read(t.secret[:]) // never fails: crypto/rand
	return t
}

// ParseToken reads what Reveal gave. ErrInvalid, which does not repeat it.
func ParseToken(s string) (Token, error) {
	var t Token
	rest, marked := strings.CutPrefix(strings.TrimSpace(s), tokenMark)
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if !marked || err != nil || len(b) != len(t.secret)+len(t.CA) {
		return t, dataset.Errorf(dataset.ErrInvalid,
			"bad join token: want the whole of what `drover node token` printed, %s…", tokenMark)
	}
	copy(t.CA[:], b[copy(t.secret[:], b):])
	return t, nil
}

// Reveal is the token as a host needs it: a secret.
func (t Token) Reveal() string {
	return tokenMark + base64.RawURLEncoding.EncodeToString(append(t.secret[:], t.CA[:]...))
}

// Hash is the stored form of a token: 64 hex digits of SHA-256, from which the token cannot be computed.
func (t Token) Hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}

// Format hides the secret wherever a token is printed by mistake.
func (t Token) Format(s fmt.State, _ rune) { fmt.Fprint(s, "join token ", t.Hash()[:8]) }
