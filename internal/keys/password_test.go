package keys_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
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
		{"empty", "\n", 0o600, "", "is empty: expected the password"},
		{"two lines", "one\ntwo\n", 0o600, "", "has several lines"},
		{"long", strings.Repeat("x", 4097), 0o600, "", "is too long"},
		{"others read it", "x", 0o640, "", "chmod 600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			require.NoError(t, os.WriteFile(path, []byte(c.content), c.mode))
			got, err := keys.ReadPassword(t.Context(), nil, dataset.PasswordSource{File: path})
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
	if _, err := keys.ReadPassword(t.Context(), nil, dataset.PasswordSource{File: path}); dataset.KindOf(err) != dataset.ErrForbidden ||
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
	require.NoError(t, os.WriteFile(path, []byte("correct horse battery"), 0o600))
	p, err := keys.ReadPassword(t.Context(), nil, dataset.PasswordSource{File: path})
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if said := fmt.Sprintf(verb, p); holds(said, []byte("correct horse battery")) {
			t.Errorf("%s prints %s", verb, said)
		}
	}
}

func TestPasswordPrograms(t *testing.T) {
	for script, want := range map[string]string{
		"echo correct horse":             "",
		"exit 0":                         "is empty: expected the password",
		"echo no such entry >&2; exit 3": "exit status 3: no such entry",
		"head -c 5000 /dev/zero":         "is too long",
		"echo correct horse; echo it >&2; echo correct horse >&2; exit 1": "[left out]",
	} {
		path := filepath.Join(t.TempDir(), "program")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
		runner := &fakes.Recorder{Next: &run.System{}}
		got, err := keys.ReadPassword(t.Context(), runner, dataset.PasswordSource{Exec: path})
		if score := runner.Calls()[0].OOMScore; score != "0" {
			t.Errorf("%s: the kernel spares it: %q", script, score)
		}
		if want == "" {
			if err != nil || string(got.Reveal()) != "correct horse" {
				t.Errorf("%s: got %q, %v", script, got.Reveal(), err)
			}
			continue
		}
		if dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "correct horse") {
			t.Errorf("%s: got %v, want %s", script, err, want)
		}
	}
}
