package verify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/dataset"
)

// Report compares the claims of a pool with the results of the suite. The caller sets the fields from Pool to Note, and
// Warnings and Seconds. Add collects the results, and Judge then sets the verdicts. It is not safe for concurrent use.
type Report struct {
	Pool         string             `json:"pool"`
	ID           uuid.UUID          `json:"id"`
	Node         string             `json:"node"`
	Backend      string             `json:"backend"`
	Path         string             `json:"path"`
	Note         string             `json:"note,omitempty"`
	Capabilities []Verdict          `json:"capabilities"`
	Rest         Verdict            `json:"rest"` // the cases that prove no capability: what every pool promises
	Cases        []Result           `json:"cases"`
	Times        []backendtest.Time `json:"times"`
	Skipped      []string           `json:"skipped"`            // the cases that were not run, and why
	Warnings     []string           `json:"warnings,omitempty"` // about remains of the run
	Seconds      float64            `json:"seconds"`
	OK           bool               `json:"ok"` // no verdict is Unproven or Untried
}

// Verdict compares the claim about one capability with the results of its cases.
type Verdict struct {
	Name     string   `json:"name"`
	Claimed  string   `json:"claimed"` // yes, no, or the claimed values
	Proven   Proof    `json:"proven"`
	Cases    int      `json:"cases"` // how many cases of the capability were run
	Failures []string `json:"failures,omitempty"`
}

// Proof is whether a pool behaves as it declares.
type Proof string

// The values of Proof.
const (
	Proven   Proof = "yes"
	Absent   Proof = "absent" // the pool claims to lack the capability, and does lack it
	Unproven Proof = "no"     // the pool does not behave as it claims
	Untried  Proof = "untried"
)

// Add adds an event of the suite to the report. It ignores events that a report does not contain.
func (r *Report) Add(e Event) {
	switch {
	case e.Unsupported != nil:
		r.Skipped = append(r.Skipped, "not supported by the filesystem below: "+strings.Join(e.Unsupported, ", "))
	case e.Result != nil:
		r.Cases = append(r.Cases, *e.Result)
	case e.Times != nil:
		r.Times = e.Times
	}
}

// Judge sets the verdict of each capability, and OK. claimed are the capabilities that the pool declares, and sandbox
// those that a new pool in the sandbox declares. If claimed and sandbox differ in a capability, that capability is
// Unproven, regardless of the results of its cases.
func (r *Report) Judge(claimed, sandbox dataset.Capabilities) error {
	declared, err := fields(claimed)
	if err != nil {
		return err
	}
	sandboxValues, err := fields(sandbox)
	if err != nil {
		return err
	}
	r.Skipped = append(r.Skipped, "power cuts, which need a separate disk, and a full pool")
	r.OK, r.Capabilities, r.Rest = true, nil, Verdict{Name: "the rest of the contract", Claimed: "yes"}
	for _, name := range names() {
		v := Verdict{Name: name, Claimed: declared[name]}
		r.judge(&v, func(c Result) bool { return slices.Contains(c.Proves, name) })
		if declared[name] != sandboxValues[name] {
			v.Proven, v.Failures = Unproven, append(v.Failures,
				fmt.Sprintf("a new pool beside it reports %q", sandboxValues[name]))
		}
		r.OK = r.OK && (v.Proven == Proven || v.Proven == Absent)
		r.Capabilities = append(r.Capabilities, v)
	}
	r.judge(&r.Rest, func(c Result) bool { return len(c.Proves) == 0 })
	r.OK = r.OK && r.Rest.Proven == Proven
	return nil
}

func (r *Report) judge(v *Verdict, concerns func(Result) bool) {
	for _, c := range r.Cases {
		if !concerns(c) {
			continue
		}
		v.Cases++
		for _, f := range c.Failures {
			v.Failures = append(v.Failures, c.Name+": "+f)
		}
	}
	switch {
	case len(v.Failures) > 0:
		v.Proven = Unproven
	case v.Cases == 0:
		v.Proven = Untried
	case v.Claimed == no:
		v.Proven = Absent
	default:
		v.Proven = Proven
	}
}

const no = "no"

// names returns the JSON names of all capabilities that the suite tests, in alphabetical order.
func names() []string {
	var list []string
	for _, c := range backendtest.Cases() {
		list = append(list, c.Proves...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// fields returns the value of each capability by its JSON name, as text.
func fields(c dataset.Capabilities) (map[string]string, error) {
	raw, err := json.Marshal(c)
	var values map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &values)
	}
	if err != nil {
		return nil, err
	}
	text := map[string]string{}
	for _, name := range names() {
		text[name] = no
		switch v := values[name].(type) {
		case bool:
			if v {
				text[name] = "yes"
			}
		case string:
			text[name] = v
		case []any:
			var words []string
			for _, w := range v {
				words = append(words, fmt.Sprint(w))
			}
			text[name] = strings.Join(words, ", ")
		}
	}
	return text, nil
}
