package keys_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
)

func TestPasswordFiles(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want, refused string
	}{
		{"good", "correct horse\n", 0o600, "correct horse", ""},
		{"without a newline", "x", 0o400, "x", ""},
		{"empty", "\n", 0o600, "", "is empty (restore it from your copy)"},
		{"two lines", "one\ntwo\n", 0o600, "", "has several lines"},
		{"long", strings.Repeat("x", 4097), 0o600, "", "is too long"},
		{"others read it", "x", 0o640, "", "chmod 600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
				t.Fatal(err)
			}
			got, err := keys.ReadPasswordFile(path)
			if c.refused == "" {
				if err != nil || string(got.Reveal()) != c.want {
					t.Fatalf("got %q, %v", got.Reveal(), err)
				}
				return
			}
			if dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want %s", err, c.refused)
			}
		})
	}
	path := filepath.Join(dir, "absent")
	if _, err := keys.ReadPasswordFile(path); dataset.KindOf(err) != dataset.ErrForbidden ||
		!strings.Contains(err.Error(), "base64 > "+path) {
		t.Errorf("absent: got %v", err)
	}
	if err := keys.CheckCredentialsFile(path); dataset.KindOf(err) != dataset.ErrForbidden ||
		!strings.HasSuffix(err.Error(), "absent not found (restore it from your copy)") {
		t.Errorf("absent credentials: got %v", err)
	}
	if err := keys.CheckCredentialsFile(filepath.Join(dir, "good")); err != nil {
		t.Errorf("good credentials: got %v", err)
	}
	if err := keys.CheckCredentialsFile(filepath.Join(dir, "others read it")); dataset.KindOf(err) !=
		dataset.ErrForbidden {
		t.Errorf("credentials that others read: got %v", err)
	}
}

// No way to print a password shows it.
func TestPasswordIsNotPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("correct horse battery"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := keys.ReadPasswordFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if said := fmt.Sprintf(verb, p); holds(said, []byte("correct horse battery")) {
			t.Errorf("%s prints %s", verb, said)
		}
	}
}
