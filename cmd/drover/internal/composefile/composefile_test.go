package composefile

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/dataset"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// resolver resolves sources below a directory.
func resolver(dir string, env map[string]string) Resolve {
	return func(source string, bind bool) string {
		text, err := Interpolate(source, env)
		if err != nil || !bind && !strings.HasPrefix(text, ".") && !strings.HasPrefix(text, "/") {
			return ""
		}
		if !filepath.IsAbs(text) {
			text = filepath.Join(dir, text)
		}
		return filepath.Clean(text)
	}
}

// projects are three projects as their users write them, and what becomes of their volumes and directories.
var projects = map[string]struct {
	files   []string
	env     map[string]string
	changes []Change
}{
	"wordpress": {
		files: []string{"compose.yaml"},
		changes: []Change{
			{Key: "html", Name: "shop-html@gold", Dir: "/p/html"}, {Key: "data-db", Name: "shop-data-db@gold", Dir: "/p/data/db"},
			{Key: "data-conf.d", Name: "shop-data-conf.d", Dir: "/p/data/conf.d"},
		},
	},
	"monitoring": {
		files: []string{"docker-compose.yml"},
		changes: []Change{
			{Key: "rules", Name: "monitoring-rules", Dir: "/p/rules"}, {Key: "prometheus", Name: "monitoring-prometheus", Dir: "/p/prometheus"},
			{Key: "prometheus-data", Name: "monitoring-prometheus-data@silver"}, {Key: "grafana-data", Name: "monitoring-grafana-data"},
			{Key: "loki-data", Name: "monitoring-loki-data"},
		},
	},
	"nextcloud": {
		files: []string{"compose.yaml", "compose.override.yaml"},
		env:   map[string]string{"DATA_DIR": "/srv/cloud"},
		changes: []Change{
			{Key: "files", Name: "cloud-files@gold", Dir: "/srv/cloud/files"}, {Key: "skins", Name: "cloud-skins", Dir: "/srv/cloud/skins"},
			{Key: "nextcloud", Name: "cloud-nextcloud@gold"}, {Key: "db", Name: "cloud-db@gold"}, {Key: "redis", Name: "cloud-redis@gold"},
		},
	},
}

// TestEdit: each project is changed as the file with the end .want says, and all other lines stay byte for byte. The
// end .diff has the changed lines, for a reviewer.
func TestEdit(t *testing.T) {
	for name, p := range projects {
		t.Run(name, func(t *testing.T) {
			for _, eol := range []string{"\n", "\r\n"} {
				var files []File
				for _, f := range p.files {
					text := strings.ReplaceAll(string(read(t, filepath.Join("testdata", name, f))), "\n", eol)
					files = append(files, File{f, []byte(text)})
				}
				edited, err := Edit(files, p.changes, resolver("/p", p.env))
				if err != nil {
					t.Fatal(err)
				}
				for i, e := range edited {
					got := strings.ReplaceAll(string(e.Text), eol, "\n")
					if strings.Count(string(e.Text), "\n") != strings.Count(string(e.Text), eol) {
						t.Errorf("%s has mixed line ends", e.Path)
					}
					base := filepath.Join("testdata", name, e.Path)
					golden(t, base+".want", got)
					golden(t, base+".diff", lineDiff(strings.ReplaceAll(string(files[i].Text), eol, "\n"), got))
				}
			}
		})
	}
}

// TestEditWithoutFinalNewline: a file whose last line has no end keeps it so.
func TestEditWithoutFinalNewline(t *testing.T) {
	text := "services:\n  a:\n    volumes: [./x:/x, ./y:/y]"
	got, err := Edit([]File{{"c.yaml", []byte(text)}}, []Change{{Key: "x", Name: "p-x", Dir: "/p/x"}, {Key: "y", Name: "p-y@gold", Dir: "/p/y"}}, resolver("/p", nil))
	if err != nil {
		t.Fatal(err)
	}
	want := "services:\n  a:\n    volumes: [x:/x, y:/y]\n\nvolumes:\n  x:\n    name: p-x\n    external: true\n  y:\n    name: p-y@gold\n    external: true"
	if d := cmp.Diff(want, string(got[0].Text)); d != "" {
		t.Error(d)
	}
}

// TestEditNotations: one volume in each notation of volumes.
func TestEditNotations(t *testing.T) {
	const services = "services: {a: {volumes: ['v:/v', './d:/d']}}\n"
	for before, after := range map[string]string{
		"volumes:\n  v:\n":                                      "volumes:\n  v:\n    name: n@gold\n    external: true\n  k:\n    name: d\n    external: true\n",
		"volumes:\n    v:\n":                                    "volumes:\n    v:\n        name: n@gold\n        external: true\n    k:\n        name: d\n        external: true\n",
		"volumes: {v: }\n":                                      "volumes: {k: {name: d, external: true}, v: {name: n@gold, external: true} }\n",
		"volumes: {v, w: {driver: local}}\n":                    "volumes: {k: {name: d, external: true}, v: {name: n@gold, external: true}, w: {driver: local}}\n",
		"volumes: {\"v\": {driver: local, name: '}'}} # x\n":    "volumes: {k: {name: d, external: true}, \"v\": {name: n@gold, external: true}} # x\n",
		"volumes:\n  v: ~ # none\n":                             "volumes:\n  v: {name: n@gold, external: true} # none\n  k:\n    name: d\n    external: true\n",
		"volumes:\n  v: # one\n    name: 'old'\n":               "volumes:\n  v: # one\n    external: true\n    name: 'n@gold'\n  k:\n    name: d\n    external: true\n",
		"volumes:\n  v:\n    external: true\n    name: \"o\"\n": "volumes:\n  v:\n    external: true\n    name: \"n@gold\"\n  k:\n    name: d\n    external: true\n",
		"volumes:\n  v:\n    external: false\n    driver: local\n    # about labels\n    labels:\n    - a\n\n    - b\n    # end\nx-a: 1\n": "volumes:\n  v:\n    name: n@gold\n    external: true\n    # about labels\n    # end\n  k:\n    name: d\n    external: true\nx-a: 1\n",
	} {
		changes := []Change{{Key: "k", Name: "d", Dir: "/p/d"}, {Key: "v", Name: "n@gold"}}
		got, err := Edit([]File{{"c.yaml", []byte(services + before)}}, changes, resolver("/p", nil))
		if err != nil {
			t.Errorf("%q: %v", before, err)
			continue
		}
		want := "services: {a: {volumes: ['v:/v', 'k:/d']}}\n" + after
		if d := cmp.Diff(want, string(got[0].Text)); d != "" {
			t.Errorf("%q:\n%s", before, d)
		}
	}
}

// TestEditEmptyDirectory: the mounts of an empty directory get the option nocopy.
func TestEditEmptyDirectory(t *testing.T) {
	edit := func(mount string) (string, error) {
		text := "services:\n  a: {volumes: [" + mount + "]}\n"
		changes := []Change{{Key: "k", Name: "d", Dir: "/p/d", NoCopy: true}}
		got, err := Edit([]File{{"c.yaml", []byte(text)}}, changes, resolver("/p", nil))
		if err != nil {
			return "", err
		}
		after, _, _ := strings.Cut(strings.TrimPrefix(string(got[0].Text), "services:\n  a: {volumes: ["), "]}\n")
		return after, nil
	}
	for mount, want := range map[string]string{
		"./d:/d":         "k:/d:nocopy",
		"'./d:/d'":       "'k:/d:nocopy'",
		"./d:/d:ro":      "'k:/d:ro,nocopy'",
		"\"./d:/d:ro\"":  "\"k:/d:ro,nocopy\"",
		"./d:/d:ro, x:y": "'k:/d:ro,nocopy', x:y",
	} {
		if got, err := edit(mount); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", mount, got, err, want)
		}
	}
	for mount, want := range map[string]string{
		"{type: bind, source: ./d, target: /d}": "c.yaml:2: ./d is empty",
		"./d:/it's:ro":                          "c.yaml:2: the directory is empty, and nocopy cannot be added",
	} {
		if got, err := edit(mount); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v, want %q", mount, got, err, want)
		}
	}
}

// TestEditRefuses: a notation that cannot be edited safely is refused, with its line, and the error repeats no value.
func TestEditRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"services:\n  a:\n    volumes:\n      - ./d:/d:rshared\n":                                                                           `c.yaml:4: a volume has no propagation (remove "rshared"`,
		"services:\n  a:\n    volumes:\n      - \"./\\x64:/d\"\n":                                                                           "c.yaml:4: this notation",
		"services:\n  a:\n    volumes:\n      - >-\n        ./d:/d\n":                                                                       "c.yaml:4: this notation",
		"services:\n  a:\n    volumes:\n      - {type: bind, source: ./d, target: /d, bind: {selinux: z}}\n":                                "c.yaml:4: bind cannot be removed inside of brackets",
		"services:\n  a:\n    volumes:\n      - type: bind\n        source: ./d\n        target: /d\n        bind: {propagation: shared}\n": "c.yaml:7: a volume has no option propagation",
		"x: &b {type: bind}\nservices:\n  a:\n    volumes:\n      - <<: *b\n        source: ./d\n        target: /d\n":                      "c.yaml:5: a mount with merged keys",
		"{services: {a: {volumes: [./d:/d]}}}\n":                                                                                            "c.yaml:1: a volume cannot be added to this notation",
		"services:\n  a:\n    volumes: [./d:/d]\nvolumes: [x]\n":                                                                            "c.yaml:4: a volume cannot be added",
		"services:\n  a:\n    volumes: [./d:/d]\n...\n":                                                                                     "behind the end of the document",
		"services:\n  a:\n    volumes: [./e:/d]\n":                                                                                          "c.yaml: a mount of /p/d is in none of the files",
		"services:\n  a:\n    volumes:\n      - ./d:/d\n        x\n":                                                                        "c.yaml:4: this notation",
		"include: [x.yaml]\nservices:\n  a:\n    volumes: [./e:/d]\n":                                                                       "c.yaml:1: a mount of /p/d may come from another file here (include)",
		"services:\n  a:\n    extends:\n      file: x.yaml\n      service: b\n":                                                             "c.yaml:3: a mount of /p/d may come from another file here (the service that a extends)",
		"services: [\n":        "c.yaml: it is not valid YAML: see its line 1",
		"a: 1\n---\nb: 2\n":    "several documents",
		"[]\n":                 "it is not a mapping",
		"\ufeffservices: {}\n": "byte order mark",
		"services:\n  a:\n    volumes: [./d:/d]\nvolumes: &x {}\nnetworks: *x\n": "",
		"services:\n  a: {environment: {P: secret}, volumes: [./d:/d:shared]}\n": "c.yaml:2: a volume has no propagation",
	} {
		_, err := Edit([]File{{"c.yaml", []byte(text)}}, []Change{{Key: "d", Name: "p-d", Dir: "/p/d"}}, resolver("/p", nil))
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"volumes:\n  v:\n    external: {name: x}\n":     "c.yaml:3: the old form of external",
		"volumes:\n  v: {x-a: 1}\n":                     "c.yaml:2: the key x-a would be lost",
		"volumes:\n  v: {driver: local, # why\n    }\n": "c.yaml:2: a comment inside of brackets",
		"volumes:\n  v: [a]\n":                          "c.yaml:2: the definition of volume v",
		"volumes:\n  w:\n":                              "c.yaml: volume v is in none of the files",
	} {
		_, err := Edit([]File{{"c.yaml", []byte(text)}}, []Change{{Key: "v", Name: "n"}}, resolver("/p", nil))
		if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestInterpolate(t *testing.T) {
	env := map[string]string{"A": "a", "EMPTY": ""}
	for text, want := range map[string]string{
		"x": "x", "$A/$A": "a/a", "${A}b": "ab", "$$A": "$A", "${B:-./c}/d": "./c/d", "${EMPTY:-c}": "c", "${EMPTY-c}": "", "${B-${A}/c}": "a/c",
		"${A:+c}": "c", "${B+c}": "", "${EMPTY:+c}": "", "${A:?x}": "a", "$B.c": ".c",
	} {
		if got, err := Interpolate(text, env); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"${A", "$", "${B:?secret}", "${A!}", "${}", "${A:}", "$1"} {
		if got, err := Interpolate(text, env); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestSplitShort(t *testing.T) {
	for text, want := range map[string][3]string{
		"/x": {"", "/x", ""}, "v:/x": {"v", "/x", ""}, "./a:/x:ro,z": {"./a", "/x", "ro,z"}, "${A:-b}:/x": {"${A:-b}", "/x", ""}, "${A:-${B:-c}}/d:/x:ro": {"${A:-${B:-c}}/d", "/x", "ro"},
	} {
		if s, to, mode := SplitShort(text); [3]string{s, to, mode} != want {
			t.Errorf("%s: %q %q %q", text, s, to, mode)
		}
	}
}

func TestKeys(t *testing.T) {
	got, err := Keys(File{"c.yaml", []byte("volumes: {a: , b: {}}\n")})
	if err != nil || strings.Join(got, " ") != "a b" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := Keys(File{"c.yaml", []byte("services: {}\n")}); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(string(read(t, path)), got); d != "" {
		t.Errorf("%s (go test -update rewrites it):\n%s", path, d)
	}
}

// lineDiff returns the lines that were removed and added, in their order: the longest common subsequence stays.
func lineDiff(before, after string) string {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out.WriteString("-" + a[i])
			i++
		default:
			out.WriteString("+" + b[j])
			j++
		}
	}
	return out.String()
}
