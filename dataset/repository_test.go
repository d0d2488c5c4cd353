package dataset_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

func TestParseRepositoryURL(t *testing.T) {
	for in, want := range map[string]string{
		"/srv/backups":                             "/srv/backups",
		"/srv//backups/../b/":                      "/srv/b",
		"/srv/with blank":                          "/srv/with blank",
		"file:///srv/backups/":                     "/srv/backups",
		"file:///srv/with%20blank":                 "/srv/with blank",
		"sftp://backup@host:2222//srv/backups":     "sftp://backup@host:2222//srv/backups",
		"sftp://host/backups":                      "sftp://host/backups",
		"sftp://[2001:db8::1]//srv":                "sftp://[2001:db8::1]//srv",
		"s3:https://s3.example.com/bucket":         "s3:https://s3.example.com/bucket",
		"s3:https://127.0.0.1:7070/bucket/hosts/a": "s3:https://127.0.0.1:7070/bucket/hosts/a",
		"rest:https://backup.example.com/a/":       "rest:https://backup.example.com/a/",
	} {
		if got, err := dataset.ParseRepositoryURL(in); err != nil || got != want {
			t.Errorf("ParseRepositoryURL(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestParseRepositoryURLRefuses(t *testing.T) {
	const secret = "hunter2"
	for in, part := range map[string]string{
		"":                                      "expected /PATH",
		"backups":                               "expected /PATH",
		"/":                                     "below /",
		"/..":                                   "below /",
		"/srv/a\nb":                             "control characters",
		"/srv/\xff":                             "control characters",
		"/" + strings.Repeat("x", 1024):         "at most 1024 bytes",
		"file://host/srv":                       "absolute path",
		"file:///srv?x":                         "absolute path",
		"file:///srv%0a":                        "absolute path",
		"file://srv":                            "absolute path",
		"local:/srv":                            "expected /PATH",
		"sftp:user@host:/srv":                   "expected /PATH",
		"sftp://host":                           "expected sftp://USER@HOST//PATH",
		"sftp:///srv":                           "expected sftp://",
		"sftp://-oProxyCommand=reboot/srv":      "expected sftp://",
		"sftp://-x@host//srv":                   "unexpected user",
		"sftp://u%3A" + secret + "@host//srv":   "unexpected user",
		"sftp://host//srv/../etc":               ". or ..",
		"sftp://u:" + secret + "@host//srv":     "must not contain a password",
		"s3:https://host":                       "HOST/BUCKET",
		"s3:https://host/":                      "HOST/BUCKET",
		"s3:host/bucket":                        "expected /PATH",
		"s3:https://host/bucket?region=x":       "HOST/BUCKET",
		"s3:https://host/bucket#x":              "HOST/BUCKET",
		"s3:https://key:" + secret + "@host/b":  "must not contain a password",
		"rest:https://user@host/a":              "unexpected user",
		"rest:https://u:" + secret + "@host/a":  "must not contain a password",
		"rest:https://u:" + secret + "%@host/a": "expected rest:",
		"rest:http://u:" + secret + "@host/a":   "must not contain a password",
		"https://host/a":                        "expected /PATH",
		"rclone:remote:path":                    "expected /PATH",
	} {
		got, err := dataset.ParseRepositoryURL(in)
		refused(t, in, err, part)
		if got != "" || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("ParseRepositoryURL(%.40q) = %q, %v: returned a URL, or repeated its password", in, got, err)
		}
	}
}

// A canonical URL is its own canonical form, has no control character and no password.
func TestRepositoryURLIsCanonical(t *testing.T) {
	part := rapid.StringOf(rapid.RuneFrom([]rune("ab0-_.:/@%?#[] \x00é")))
	rapid.Check(t, func(t *rapid.T) {
		begin := rapid.SampledFrom([]string{
			"/", "file:///", "sftp://", "s3:https://", "rest:https://", "",
		}).Draw(t, "begin")
		in := begin + part.Draw(t, "rest")
		first, err := dataset.ParseRepositoryURL(in)
		if err != nil {
			if !errors.Is(err, dataset.ErrInvalid) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: %v", in, err)
			}
			return
		}
		if again, err := dataset.ParseRepositoryURL(first); err != nil || again != first {
			t.Fatalf("%q becomes %q, and that %q, %v", in, first, again, err)
		}
		if strings.ContainsRune(first, 0) {
			t.Fatalf("%q is accepted", in)
		}
		if host, isRemote := strings.CutPrefix(first, "sftp://"); isRemote && strings.HasPrefix(host, "-") {
			t.Fatalf("%q has an option of ssh as its host", in)
		}
	})
}

func TestParsePasswordSource(t *testing.T) {
	for _, in := range []string{"file:/etc/drover/offsite.pass", "file:/root/a b", "exec:/etc/drover/offsite-pass"} {
		p, err := dataset.ParsePasswordSource(in)
		if err != nil || p.String() != in {
			t.Errorf("ParsePasswordSource(%q) = %v, %v", in, p, err)
		}
	}
	for in, part := range map[string]string{
		"":                             "expected file:PATH",
		"hunter2":                      "expected file:PATH",
		"/etc/drover/offsite.pass":     "expected file:PATH",
		"file:":                        "expected the path",
		"file:offsite.pass":            "absolute path",
		"file:/etc/../etc/pass":        "absolute path",
		"file:/":                       "absolute path",
		"file:/etc/a\nb":               "absolute path",
		"exec:/bin/sh":                 "must be below /etc/drover/",
		"exec:/etc/drover":             "must be below /etc/drover/",
		"exec:/etc/drover/../bin/sh":   "absolute path",
		"exec:/etc/drover-x/program":   "must be below /etc/drover/",
		"exec:/etc/drover/pass --all;": "",
	} {
		_, err := dataset.ParsePasswordSource(in)
		if part == "" { // a blank is a part of the path, and never separates arguments
			assert.NoErrorf(t, err, "%q", in)
			continue
		}
		refused(t, in, err, part)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats what may be a password: %v", err)
		}
	}
}

// A URL without TLS is refused by name, unless the repository is insecure and its host may be in a private network.
func TestRepositoryWithoutTLS(t *testing.T) {
	r := dataset.Repository{Name: "nas", Password: dataset.PasswordSource{File: "/etc/drover/nas.pass"}}
	for url, private := range map[string]bool{
		"s3:http://10.0.0.5:9000/bucket": true, "s3:http://nas/bucket": true, "rest:http://[fd00::1]:8000/host": true,
		"s3:http://8.8.8.8/bucket": false,
	} {
		r.URL, r.Insecure = url, false
		kind, _, _ := strings.Cut(url, "//")
		if _, err := r.Checked(); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), kind+"// has no TLS") ||
			!strings.Contains(err.Error(), "--insecure") {
			t.Errorf("%s: %v", url, err)
		}
		r.Insecure = true
		if _, err := r.Checked(); (err == nil) != private {
			t.Errorf("%s, insecure: %v", url, err)
		}
	}
}

func TestRepositoryChecked(t *testing.T) {
	good := dataset.Repository{
		Name: "offsite", URL: "file:///srv/backups", Password: dataset.PasswordSource{File: "/etc/drover/offsite.pass"},
	}
	got, err := good.Checked()
	if err != nil || got.URL != "/srv/backups" || got.SamePlace(good) {
		t.Errorf("got %+v, %v", got, err)
	}
	again, err := got.Checked()
	if err != nil || !again.SamePlace(got) {
		t.Errorf("checked twice: %+v, %v", again, err)
	}
	for name, c := range map[string]struct {
		change func(*dataset.Repository)
		part   string
	}{
		"name":                  {func(r *dataset.Repository) { r.Name = "Off site" }, "bad repository name"},
		"URL":                   {func(r *dataset.Repository) { r.URL = "backups" }, "expected /PATH"},
		"no password":           {func(r *dataset.Repository) { r.Password = dataset.PasswordSource{} }, "expected the path"},
		"two passwords":         {func(r *dataset.Repository) { r.Password.Exec = "/etc/drover/p" }, "expected the path"},
		"credentials of no S3":  {func(r *dataset.Repository) { r.CredentialsFile = "/etc/drover/s3" }, "only to a URL of s3"},
		"credentials elsewhere": {func(r *dataset.Repository) { r.URL, r.CredentialsFile = "s3:https://h/b", "s3" }, "credentials file"},
	} {
		r := good
		c.change(&r)
		_, err := r.Checked()
		refused(t, name, err, c.part)
	}
}
