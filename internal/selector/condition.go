package selector

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strings"
)

// condition is a boolean expression about an environment.
type condition interface {
	// mismatch returns the reason why the condition does not have the wanted value, or "" if it has that value.
	mismatch(env Env, want bool) string
}

// junction is "and" (all is true) or "or" of a list of conditions. If the value false is wanted, mismatch applies De
// Morgan's laws.
type junction struct {
	all  bool
	list []condition
}

func (j junction) mismatch(env Env, want bool) string {
	var reasons []string
	for _, c := range j.list {
		why := c.mismatch(env, want)
		switch all := j.all == want; {
		case all && why != "":
			return why
		case !all && why == "":
			return ""
		}
		reasons = append(reasons, why)
	}
	if j.all == want {
		return ""
	}
	return strings.Join(reasons, ", and ")
}

type negation struct{ condition }

func (n negation) mismatch(env Env, want bool) string { return n.condition.mismatch(env, !want) }

// flag is a boolean operand.
type flag struct{ operand }

func (f flag) mismatch(env Env, want bool) string {
	if f.get(env).truth == want {
		return ""
	}
	return f.text + " is " + f.get(env).show(truth)
}

// comparison compares two operands of one kind.
type comparison struct {
	left, right operand
	op          string
}

func (c comparison) mismatch(env Env, want bool) string {
	left, right := c.left.get(env), c.right.get(env)
	if c.isTrue(left, right) == want {
		return ""
	}
	other := c.right.text
	if !c.right.constant {
		other += " (" + right.show(c.right.kind) + ")"
	}
	return c.left.describe(left) + verdict(want) + c.op + " " + other
}

// verdict returns the words of a mismatch that follow the value of the fact, such as ", not " in "load_10 is 34, not <
// 20".
func verdict(want bool) string {
	if want {
		return ", not "
	}
	return ", which is "
}

func (c comparison) isTrue(left, right value) bool {
	var order int
	switch c.left.kind {
	case truth, text:
		return (left.text == right.text && left.truth == right.truth) == (c.op == "==")
	case version:
		if c.op == "==" || c.op == "!=" {
			return (left.text == right.text) == (c.op == "==")
		}
		if left.text == "" || right.text == "" {
			return false // an unknown version is neither older nor newer
		}
		order = slices.Compare(numbers(left.text), numbers(right.text)) // 6.12.3 > 6.12 > 6.8
	default:
		if math.IsNaN(left.number - right.number) { // 0 / 0, such as the ratio of the sizes of an empty pool
			return c.op == "!="
		}
		order = cmp.Compare(left.number, right.number)
	}
	switch c.op {
	case "==":
		return order == 0
	case "!=":
		return order != 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	default: // ">=": the reader accepts no other operator
		return order >= 0
	}
}

// oneOf tests whether a text is one of several.
type oneOf struct {
	operand
	words []string
	text  string
}

func (a oneOf) mismatch(env Env, want bool) string {
	v := a.get(env)
	if slices.Contains(a.words, v.text) == want {
		return ""
	}
	return a.describe(v) + verdict(want) + "in " + a.text
}

// listContains tests whether a list contains a text.
type listContains struct {
	operand
	word string
}

func (h listContains) mismatch(env Env, want bool) string {
	v := h.get(env)
	if slices.Contains(v.list, h.word) == want {
		return ""
	}
	with := ", not with "
	if !want {
		with = ", with "
	}
	return h.describe(v) + with + h.word
}

// match tests whether a text matches a regular expression.
type match struct {
	operand
	pattern *regexp.Regexp
}

func (m match) mismatch(env Env, want bool) string {
	v := m.get(env)
	if m.pattern.MatchString(v.text) == want {
		return ""
	}
	verb := ", which does not match "
	if !want {
		verb = ", which matches "
	}
	return m.describe(v) + verb + m.pattern.String()
}

// describe returns the beginning of a message about the operand, with its value v.
func (o operand) describe(v value) string {
	switch {
	case v.text == "" && strings.HasPrefix(o.text, "labels"):
		return o.text + " is not set"
	case v.text == "" && (o.kind == text || o.kind == version), o.kind == list && len(v.list) == 0:
		return o.text + " is unknown"
	}
	return o.text + " is " + v.show(o.kind)
}
