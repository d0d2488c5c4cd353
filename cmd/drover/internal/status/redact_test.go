package status

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// TestRedact: no secret stays in a text or in JSON, in any of the forms in which secrets occur.
func TestRedact(t *testing.T) {
	const pem = "-----BEGIN EC PRIVATE KEY-----\nhunter2\nhunter2==\n-----END EC PRIVATE KEY-----\n"
	for _, text := range []string{
		"password: hunter2", "password=hunter2,more", `password="a hunter2 b"`, `{"password": "a \"hunter2"}`, `{"db.Password":"hunter2"}`,
		"RESTIC_PASSWORD=hunter2", "AWS_SECRET_ACCESS_KEY=hunter2", "X-Consul-Token: hunter2", "Authorization: Bearer hunter2",
		"Authorization: Basic hunter2", "level=info token=hunter2 op=1", `msg="asked" api_key='hunter2 hunter2'`, "access-key: hunter2",
		"https://user:hunter2@consul:8501/v1", "rest:https://user:hunter2@host/", "http://hunter2@host", "http://u:p/hunter2@host/path",
		"http://u:p@hunter2@host", "sftp:user:hunter2@host:/srv", "Get \"https://u:hunter2@host/x\": refused", "s3:https://u:hunter2@minio/b",
		"https://host/?X-Amz-Signature=hunter2&x=1", "https://host/?token=hunter2", "drover agent --join-token hunter2", "--token=hunter2",
		"drover-join-hunter2_AAA-BBB", pem, "log " + strings.ReplaceAll(pem, "\n", `\n`), pem[:60], pem[40:],
		"PASSPHRASE=hunter2", "session-cookie: hunter2", `{"labels": {"app/secret": "hunter2"}}`, "pwd=hunter2", `"token": 12hunter2`, `{\"token\": \"hunter2\"}`,
	} {
		if got := string(Redact([]byte(text))); strings.Contains(got, "hunter2") {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// TestRedactKeeps: a text without secrets stays as it is, and JSON stays valid.
func TestRedactKeeps(t *testing.T) {
	for _, text := range []string{
		"password: file:/etc/drover/offsite", "password: exec:/etc/drover/password", `{"password": {"file": "/etc/drover/offsite"}}`,
		"token_file: /etc/drover/consul-token", `{"token_file": "/etc/drover/consul-token"}`, `"key_file": "/etc/drover/key",`, `"password": {`,
		"credentials_file=/etc/drover/s3", "http://consul:8500", "volume db@gold is full", "bad password source: expected a file",
		"/var/lib/drover/mnt/0a000000-0000-4000-8000-000000000001", `"tokens": []`, `"token": null`, "op=0b time=2026-01-01T00:00:00Z",
	} {
		if got := string(Redact([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	in := `{"a": {"password": "x,}", "list": ["https://u:p@h/"], "n": {"secret": {"x": 1}}, "token": "\\"}, "s": "token=x"}`
	var v any
	if out := Redact([]byte(in)); json.Unmarshal(out, &v) != nil {
		t.Errorf("no JSON any more: %s", out)
	}
}

func TestRedactYAML(t *testing.T) {
	const in = `# the password is hunter2
store:
  consul:
    addresses: ["https://user:hunter2@consul:8501"]   # hunter2
    token_file: /etc/drover/consul-token
    token: hunter2 hunter2
    password: |
      hunter2
        hunter2
    prefix: drover
    tls: true
encryption:
  key: {file: hunter2}
other:
  key: 5
  key_file: /etc/drover/key
  token: null
credentials:
  id: hunter2
  file: file:/etc/drover/s3
labels: {zone: a, api-key: hunter2}
transfers: 10MiB
password: exec:/etc/drover/program hunter2
key:
  exec: [/etc/drover/key-program, hunter2]
`
	const want = `store:
  consul:
    addresses:
    - https://[redacted]@consul:8501
    token_file: /etc/drover/consul-token
    token: "[redacted]"
    password: "[redacted]"
    prefix: drover
    tls: true
encryption:
  key:
    file: "[redacted]"
other:
  key: "[redacted]"
  key_file: /etc/drover/key
  token: null
credentials:
  id: "[redacted]"
  file: file:/etc/drover/s3
labels:
  zone: a
  api-key: "[redacted]"
transfers: 10MiB
password: "[redacted]"
key:
  exec:
  - /etc/drover/key-program
  - "[redacted]"
`
	if got, err := RedactYAML([]byte(in)); err != nil || string(got) != want {
		t.Errorf("got %v\n%s", err, got)
	}
	for _, bad := range []string{"a: hunter2\nb: [\n", "password:\n  - hunter2\n x: y\n", "\thunter2: x\n", "? [hunter2, b]\n: c\n"} {
		got, err := RedactYAML([]byte(bad))
		if !errors.Is(err, dataset.ErrInvalid) || len(got) > 0 || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q became %q, %v", bad, got, err)
		}
	}
	if got, err := RedactYAML(nil); err != nil || len(got) > 0 {
		t.Errorf("an empty file became %q, %v", got, err)
	}
}

// TestRedactYAMLForms: the secret is found in each form in which YAML can have it, and the other settings stay.
func TestRedactYAMLForms(t *testing.T) {
	for _, text := range []string{
		"secrets:\n- hunter2\n- hunter2\n", "a:\n- secrets:\n  # comment\n  - hunter2\n", "secrets:\n- a: hunter2\n  b: hunter2\n",
		"password: |2-\n   hunter2:\n", "password: > # comment\n  a\n\n  hunter2: b\n", "a: {\"key\":hunter2}\n", "a: {password: [x,\n  hunter2]}\n",
		"\"my password\": x hunter2\n", "db:password: x hunter2\n", "password: &p hunter2\nb: c\n", "password: !!str hunter2\n", "? password\n: hunter2\n",
		"b: c\r\nsecrets:\r\n- hunter2\r\n", "\ufeffkey: hunter2\n", "password: \"x #hunter2\"\n", "b: c # hunter2\n", "password[0]: x\n  hunter2\n",
		"password: |\n  x\n  ---\n  hunter2\n",
	} {
		got, err := RedactYAML([]byte(text + "other: value\n"))
		if strings.Contains(string(got), "hunter2") || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q became %q, %v", text, got, err)
		}
		if err == nil && !strings.HasSuffix(string(got), "other: value\n") {
			t.Errorf("after %q: %q", text, got)
		}
	}
}
