package lab

import (
	"regexp"
	"strings"
)

// A result is how a test ended, with what it said and its subtests.
type result struct {
	name    string // the last part
	verdict string // PASS, FAIL or SKIP; empty: it has not ended
	said    []string
	sub     []*result
}

// at finds the test of that full name below this one, or makes it.
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
	if deeper { // no test of its own, but a part of a name
		s.verdict = "PASS"
		return s.at(rest)
	}
	return s
}

// failed reports whether the test or one below it failed or did not end.
func (r *result) failed() bool {
	for _, s := range r.sub {
		if s.failed() {
			return true
		}
	}
	return r.verdict != "PASS" && r.verdict != "SKIP"
}

// marked is a line of a test program that was told -test.v=test2json: what the testing
// package itself says begins with ^V, so that no test can say it.
var marked = regexp.MustCompile(`\x16(=== (RUN|PAUSE|CONT|NAME)\s+|\s*--- (PASS|FAIL|SKIP): )(\S*)`)

// A reader makes results of the lines of a test program.
type reader struct {
	all result // its subtests are the program's tests
	now *result
}

func (r *reader) line(s string) {
	m := marked.FindStringSubmatch(s)
	switch {
	case m == nil && r.now != nil:
		r.now.said = append(r.now.said, s)
	case m == nil:
		r.all.said = append(r.all.said, s)
	case m[4] == "": // === NAME of none
		r.now = nil
	default:
		// What came before on the line is the end of what was said.
		if before, _, _ := strings.Cut(s, "\x16"); before != "" && r.now != nil {
			r.now.said = append(r.now.said, before)
		}
		r.now = r.all.at(m[4])
		if m[3] != "" {
			r.now.verdict = m[3]
		}
	}
}
