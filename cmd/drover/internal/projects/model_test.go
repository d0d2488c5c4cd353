package projects

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestDifference: two models differ at each place but those that depend on the notation. No difference shows a value.
func TestDifference(t *testing.T) {
	const old = `{"name": "p", "x-base": {"volumes": ["./d:/d"]}, "services": {"a": {"environment": {"P": "s3cret"}, "volumes": [
		{"type": "bind", "source": "/p/d", "target": "/d", "bind": {"create_host_path": true, "selinux": "Z"}},
		{"type": "bind", "source": "/p/e", "target": "/e"}]}}, "volumes": {"v": {"name": "p_v"}}}`
	const moved = `{"name": "p", "x-base": {"volumes": ["k:/d"]}, "services": {"a": {"environment": {"P": "s3cret"}, "volumes": [
		{"type": "volume", "source": "k", "target": "/d", "bind": {"selinux": "Z"}, "volume": {}},
		{"type": "bind", "source": "/p/e", "target": "/e"}]}}, "volumes": {"v": {"name": "n@gold", "external": true}, "k": {"name": "d", "external": true}}}`
	items := []Item{{Key: "v", Spec: "n@gold"}, {Key: "k", Spec: "d", Dir: true, Source: "/p/d"}}
	parse := func(text string) model {
		m, err := parseModel([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for change, want := range map[string]string{
		"":                                  "",
		`"P": "s3cret" => "P": "other"`:     "services.a.environment.P",
		`"/p/e" => "/p/f"`:                  "services.a.volumes[1].source",
		`"target": "/d" => "target": "/x"`:  "services.a.volumes[0].target",
		`{"name": "n@gold" => {"name": "n"`: "volumes.v.name",
		`"name": "p", => "name": "q",`:      "name",
		`"source": "/p/e", => "source": "/p/e", "read_only": true,`: "services.a.volumes[1].read_only",
	} {
		from, to, _ := strings.Cut(change, " => ")
		m := parse(old)
		m.expect(items)
		if got := difference(m, parse(strings.Replace(moved, from, to, 1))); got != want {
			t.Errorf("%s: %q, want %q", change, got, want)
		}
	}
	for _, text := range []string{"[]", "s3cret", `{"services": {"a": "s3cret"}}`} {
		if _, err := parseModel([]byte(text)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if !json.Valid([]byte(old)) || !json.Valid([]byte(moved)) {
		t.Error("a bad test")
	}
}
