package composefile

import (
	"strings"

	"github.com/droverhq/drover/dataset"
)

// Interpolate replaces the variables in a text as Compose does: $NAME, ${NAME}, and ${NAME} with the operators -, :-,
// +, :+, ? and :?, whose words may contain variables. $$ is a dollar sign. It fails with dataset.ErrInvalid for any
// other notation, and for a variable that is not set and has the operator ?. Errors do not contain values.
func Interpolate(text string, env map[string]string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); {
		switch {
		case text[i] != '$':
			b.WriteByte(text[i])
			i++
		case strings.HasPrefix(text[i:], "$$"):
			b.WriteByte('$')
			i += 2
		case strings.HasPrefix(text[i:], "${"):
			end := closing(text, i+2)
			if end < 0 {
				return "", dataset.Errorf(dataset.ErrInvalid, "a variable without a closing brace")
			}
			v, err := expand(text[i+2:end], env)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			i = end + 1
		default:
			n := nameLength(text[i+1:])
			if n == 0 {
				return "", dataset.Errorf(dataset.ErrInvalid, "a dollar sign without the name of a variable")
			}
			b.WriteString(env[text[i+1:i+1+n]])
			i += 1 + n
		}
	}
	return b.String(), nil
}

// closing returns the index of the brace that closes a variable whose name begins at an index, or -1.
func closing(text string, from int) int {
	depth := 1
	for i := from; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			depth++
		case text[i] == '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// nameLength returns the length of the name of a variable at the beginning of a text.
func nameLength(text string) int {
	n := 0
	for n < len(text) && (text[n] == '_' || 'a' <= text[n]|0x20 && text[n]|0x20 <= 'z' ||
		n > 0 && '0' <= text[n] && text[n] <= '9') {
		n++
	}
	return n
}

// expand returns the value of the inside of ${…}.
func expand(inside string, env map[string]string) (string, error) {
	n := nameLength(inside)
	name, rest := inside[:n], inside[n:]
	v, set := env[name]
	if rest == "" && n > 0 {
		return v, nil
	}
	rest, colon := strings.CutPrefix(rest, ":")
	if colon && v == "" {
		set = false
	}
	if n == 0 || rest == "" {
		return "", dataset.Errorf(dataset.ErrInvalid, "an unknown notation of a variable")
	}
	word := rest[1:]
	switch rest[0] {
	case '-':
		if set {
			return v, nil
		}
		return Interpolate(word, env)
	case '+':
		if !set {
			return "", nil
		}
		return Interpolate(word, env)
	case '?':
		if set {
			return v, nil
		}
		return "", dataset.Errorf(dataset.ErrInvalid, "variable %s is not set", name)
	}
	return "", dataset.Errorf(dataset.ErrInvalid, "an unknown notation of a variable")
}
