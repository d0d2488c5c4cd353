package lab

import (
	"regexp"
	"strings"
)

// A result is the result of a test, with its output and its subtests.
type result struct {
	name    string // the last part of the full name
	verdict string // PASS, FAIL or SKIP; empty: the test has not ended
	output  []string
	sub     []*result
}

// at returns the test with a full name below this one, and creates it if necessary.
func (r *result) at(name string) *result {
	first, rest, deeper := strings.Cut(name, "/")
	for _, s := range r.sub {
		if s.name == first {
			if deeper {
				return s.at(rest)
			}
			return s
		}
	}
	s := &result{name: first}
	r.sub = append(r.sub, s)
	if deeper { // not a separate test, but a part of a name
		s.verdict = "PASS"
		return s.at(rest)
	}
	return s
}

// failed reports whether the test, or one below it, failed or did not end.
func (r *result) failed() bool {
	for _, s := range r.sub {
		if s.failed() {
			return true
		}
	}
	return r.verdict != "PASS" && r.verdict != "SKIP"
}

// resultLine matches a line of a test program that runs with -test.v=test2json. The lines of the testing package
// itself begin with ^V, so that the output of a test cannot look like them.
var resultLine = regexp.MustCompile(`\x16(=== (RUN|PAUSE|CONT|NAME)\s+|\s*--- (PASS|FAIL|SKIP): )(\S*)`)

// A reader turns the output lines of a test program into results.
type reader struct {
	all result // its subtests are the program's tests
	now *result
}

func (r *reader) line(s string) {
	m := resultLine.FindStringSubmatch(s)
	switch {
	case m == nil && r.now != nil:
		r.now.output = append(r.now.output, s)
	case m == nil:
		r.all.output = append(r.all.output, s)
	case m[4] == "": // === NAME without a name
		r.now = nil
	default:
		// The text before the mark is the end of the previous output.
		if before, _, _ := strings.Cut(s, "\x16"); before != "" && r.now != nil {
			r.now.output = append(r.now.output, before)
		}
		r.now = r.all.at(m[4])
		if m[3] != "" {
			r.now.verdict = m[3]
		}
	}
}
