package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
)

// TestSupportBundle: the bundle has the output of all commands, none of which has a secret that a server returns. If
// the server does not answer, the command still succeeds.
func TestSupportBundle(t *testing.T) {
	bundle := func(scenario string) (map[string]string, *console) {
		c := newConsole(theWorld())
		scenarios[scenario](c)
		c.env["DROVER_API"] = "unix://" + t.TempDir() + "/none"
		c.fake.findings = append(c.fake.findings, api.Finding{Level: "error", Subject: "store", Text: "GET https://u:hunter2@consul/: token=hunter2 is refused"})
		for i := range c.fake.volumes {
			c.fake.volumes[i].Labels = map[string]string{"db-password": "hunter2"}
		}
		file := filepath.Join(t.TempDir(), "b.tar.gz")
		if code := c.run(t, "support-bundle", "-o", file); code != 0 {
			t.Fatalf("%s: exit %d: %s", scenario, code, c.err.String())
		}
		return untar(t, file), c
	}
	files, c := bundle("")
	for _, name := range []string{
		"version.json", "status.txt", "doctor.txt", "volumes.json", "operations.json", "events.json", "host.txt",
	} {
		text := files[name]
		if text == "" || strings.Contains(text, "hunter2") || strings.Contains(files["errors.txt"], "\n"+name) {
			t.Errorf("%s: %q; errors: %s", name, text, files["errors.txt"])
		}
		if strings.HasSuffix(name, ".json") && name != "events.json" && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON: %s", name, text)
		}
	}
	if !strings.Contains(files["volumes.json"], "[redacted]") || !strings.Contains(files["status.txt"], "[redacted]") {
		t.Errorf("%q", files)
	}
	for _, line := range c.fake.asked {
		if strings.Contains(line, "Backup") || strings.HasPrefix(line, "Submit") {
			t.Errorf("asked %s", line)
		}
	}
	files, c = bundle("away")
	if !strings.Contains(files["errors.txt"], "volumes.json: cannot reach drover") || !strings.Contains(c.err.String(), "volumes.json") {
		t.Errorf("%q, %q", files, c.err.String())
	}
}

func untar(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[path.Base(h.Name)] = string(b)
	}
}
