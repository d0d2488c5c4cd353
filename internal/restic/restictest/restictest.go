// Package restictest makes repositories of restic that open quickly, for tests.
//
// restic derives the key of a repository from its password with scrypt. "restic init" chooses parameters that take half
// a second of CPU time, and each later run of restic takes that time again. The repositories of this package have the
// smallest parameters, so that a run takes only milliseconds.
package restictest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/poly1305" //nolint:staticcheck // restic's format needs Poly1305-AES
	"golang.org/x/crypto/scrypt"

	"github.com/droverhq/drover/test/require"
)

// macKey is the key of a message authentication code.
type macKey struct {
	K []byte `json:"k"` // 16 bytes
	R []byte `json:"r"` // 16 bytes
}

// key encrypts and authenticates the files of a repository.
type key struct {
	MAC     macKey `json:"mac"`
	Encrypt []byte `json:"encrypt"` // 32 bytes
}

// keyFile is a file in the folder keys: the master key, encrypted with a key that is derived from the password.
type keyFile struct {
	Created time.Time `json:"created"`
	KDF     string    `json:"kdf"`
	N       int       `json:"N"`
	R       int       `json:"r"`
	P       int       `json:"p"`
	Salt    []byte    `json:"salt"`
	Data    []byte    `json:"data"`
}

// config is the file config of a repository.
type config struct {
	Version           int    `json:"version"`
	ID                string `json:"id"`
	ChunkerPolynomial string `json:"chunker_polynomial"`
}

// Make makes an empty repository with a random ID in a folder that does not exist yet. The format is described in
// "References: Design" of restic's documentation, restic.readthedocs.io/en/stable/100_references.html.
func Make(t testing.TB, folder, password string) {
	t.Helper()
	for _, name := range []string{"data", "index", "keys", "locks", "snapshots"} {
		check(t, os.MkdirAll(filepath.Join(folder, name), 0o700))
	}
	master := newKey(random(64))
	kf := keyFile{Created: time.Now(), KDF: "scrypt", N: 2, R: 1, P: 1, Salt: random(64)}
	derived, err := scrypt.Key([]byte(password), kf.Salt, kf.N, kf.R, kf.P, 64)
	check(t, err)
	kf.Data = newKey(derived).seal(t, encode(t, master))
	text := encode(t, kf)
	name := sha256.Sum256(text)
	check(t, os.WriteFile(filepath.Join(folder, "keys", hex.EncodeToString(name[:])), text, 0o600))
	// The polynomial, which decides where files are cut, is the example of restic's documentation.
	text = encode(t, config{Version: 2, ID: hex.EncodeToString(random(32)), ChunkerPolynomial: "25b468838dcb75"})
	check(t, os.WriteFile(filepath.Join(folder, "config"), master.seal(t, text), 0o600))
}

// newKey returns the key that consists of 64 bytes.
func newKey(b []byte) key {
	return key{Encrypt: b[:32], MAC: macKey{K: b[32:48], R: b[48:64]}}
}

// seal returns a new nonce, the encrypted text and its authentication code.
func (k key) seal(t testing.TB, text []byte) []byte {
	t.Helper()
	nonce := random(aes.BlockSize)
	block, err := aes.NewCipher(k.Encrypt)
	check(t, err)
	sealed := make([]byte, len(text))
	cipher.NewCTR(block, nonce).XORKeyStream(sealed, text)
	block, err = aes.NewCipher(k.MAC.K)
	check(t, err)
	var once [32]byte
	copy(once[:16], k.MAC.R)
	block.Encrypt(once[16:], nonce)
	var mac [poly1305.TagSize]byte
	poly1305.Sum(&mac, sealed, &once)
	return append(append(nonce, sealed...), mac[:]...)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see its documentation
	return b
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	check(t, err)
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	require.NoError(t, err)
}
