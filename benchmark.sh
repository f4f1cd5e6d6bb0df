#!/usr/bin/env bash
# The whole study from one command: games x agents x seeds, then the report. Repeat the command to go on: every run is
# started with --resume, so finished runs are skipped and killed ones continue from their checkpoint.
set -u -o pipefail

usage() {
  sed -e "s/AGENTS_OF_ALE/$(agents_of ALE)/" -e "s/AGENTS_OF_MINATAR/$(agents_of MinAtar)/" \
    -e "s/AGENTS_OF_GYM/$(agents_of Gym)/" -e '/^agents of/s/,/, /g' <<'TEXT' | fold -s -w 120
usage: bash benchmark.sh SUITE [options] [-- EXTRA]

SUITE            runs
  quick          the gridworld's figures; MinAtar Space Invaders, DQN and IB-DQN, 2 seeds, 200,000 steps
  minatar        the five MinAtar games, DQN and IB-DQN, 5 seeds, 5,000,000 steps
  atari5         BattleZone, DoubleDunk, NameThisGame, Phoenix, Qbert; 4 agents, 5 seeds, 50,000,000 steps
  ablation11     those of atari5, Alien, Asterix, Seaquest, SpaceInvaders, WizardOfWor, Zaxxon; the same
  atari57        all 57 games; the same
  lunarlander    LunarLander, k of 0, 0.5, 1, 2, 4, 8, 16 and 32, 10 seeds, 100,000 steps

--games LIST     of the 57 Atari games or the five of MinAtar, such as Breakout,Seaquest
--agents LIST    of those of the suite's games, listed below
--k LIST         a sweep: each agent once with every k of the list, of numbers and n, 2n, 4n ..., n the number of actions
                 of the game; agents are then those that have the layer (default: DQN's)
--seeds N|LIST   N seeds from 1 on, or a list such as 3,4 (of one: 3,)
--steps N        agent steps of every run
--workers N      runs at a time (default: the GPUs given, or else the cores)
--gpus LIST      such as 0,1: shared out among the runs at a time; not with --slurm, which gives each run its own
--out DIR        where runs, logs and report go (default: benchmark/SUITE)
--slurm OPTIONS  submit to Slurm instead, with these options of sbatch, such as "--partition=gpu --gres=gpu:1 --mem=16G"
--dry-run        print every command and stop
-- EXTRA         passed on to the scripts

agents of Atari: AGENTS_OF_ALE
agents of MinAtar: AGENTS_OF_MINATAR
agents of LunarLander: AGENTS_OF_GYM
TEXT
}

die() {
  echo "error: $*" >&2
  exit 2
}

root=$(CDPATH="" cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# AGENTS, a line each: the family of their games, the name that --agents and --exp-name give them, script and flags
declare -A agent_scripts=(
  [ALE/dqn]="dqn_atari.py"
  [ALE/dqn_mexp]="dqn_atari_mexp.py"
  [ALE/iqn]="iqn_atari.py"
  [ALE/iqn_mexp]="iqn_atari_mexp.py"
  [ALE/dueling]="related/dueling_atari.py"
  [ALE/rdq]="related/dueling_atari.py --rdq-beta 0.001"
  [ALE/eaudeqn]="related/eaudeqn_atari.py"
  [ALE/eaudeqn_mexp]="related/eaudeqn_atari.py --mean-scaling-coefficient n"
  [ALE/eaudeqn_w32]="related/eaudeqn_atari.py --width 32"
  [ALE/eaudeqn_w2048]="related/eaudeqn_atari.py --width 2048"
  [ALE/polyprune]="related/eaudeqn_atari.py --method polyprune"
  [ALE/polyprune_mexp]="related/eaudeqn_atari.py --method polyprune --mean-scaling-coefficient n"
  [ALE/dense]="related/eaudeqn_atari.py --method dense"
  [ALE/dense_mexp]="related/eaudeqn_atari.py --method dense --mean-scaling-coefficient n"
  [ALE/nature]="related/nature_dqn_atari.py"
  [ALE/nature_mexp]="related/nature_dqn_atari.py --mean-scaling-coefficient n"
  [ALE/softq]="related/softq_atari.py"
  [ALE/softq_mexp]="related/softq_atari.py --mean-scaling-coefficient n"
  [ALE/munchausen]="related/softq_atari.py --munchausen 0.9 --entropy-form entropy"
  [ALE/munchausen_mexp]="related/softq_atari.py --munchausen 0.9 --entropy-form entropy --mean-scaling-coefficient n"
  [ALE/softq_online]="related/softq_online_atari.py --method q"
  [ALE/softq_pg]="related/softq_online_atari.py --method pg"
  [ALE/isdqn]="related/isdqn_atari.py"
  [ALE/isdqn_mexp]="related/isdqn_atari.py --mean-scaling-coefficient n"
  [ALE/isdqn1]="related/isdqn_atari.py --num-iterations 1"
  [ALE/isdqn1_mexp]="related/isdqn_atari.py --num-iterations 1 --mean-scaling-coefficient n"
  [ALE/targetfree]="related/isdqn_atari.py --num-iterations 0"
  [ALE/targetfree_mexp]="related/isdqn_atari.py --num-iterations 0 --mean-scaling-coefficient n"
  [ALE/targetbased]="related/isdqn_atari.py --num-iterations 1 --target-network"
  [ALE/targetbased_mexp]="related/isdqn_atari.py --num-iterations 1 --target-network --mean-scaling-coefficient n"
  [ALE/targetfree_noln]="related/isdqn_atari.py --num-iterations 0 --no-layer-norm"
  [ALE/targetfree_noln_mexp]="related/isdqn_atari.py --num-iterations 0 --no-layer-norm --mean-scaling-coefficient n"
  [MinAtar/minatar_dqn]="minatar_mexp.py --mean-scaling-coefficient 0"
  [MinAtar/minatar_mexp]="minatar_mexp.py"
  [MinAtar/minatar_iqn]="related/iqn_minatar.py"
  [MinAtar/minatar_iqn_mexp]="related/iqn_minatar.py --mean-scaling-coefficient n"
  [MinAtar/minatar_dueling]="related/dueling_minatar.py"
  [MinAtar/minatar_rdq]="related/dueling_minatar.py --rdq-beta 0.001"
  [MinAtar/minatar_eaudeqn]="related/eaudeqn_minatar.py"
  [MinAtar/minatar_eaudeqn_mexp]="related/eaudeqn_minatar.py --mean-scaling-coefficient n"
  [MinAtar/minatar_eaudeqn_w32]="related/eaudeqn_minatar.py --width 32"
  [MinAtar/minatar_eaudeqn_w512]="related/eaudeqn_minatar.py --width 512"
  [MinAtar/minatar_polyprune]="related/eaudeqn_minatar.py --method polyprune"
  [MinAtar/minatar_polyprune_mexp]="related/eaudeqn_minatar.py --method polyprune --mean-scaling-coefficient n"
  [MinAtar/minatar_dense]="related/eaudeqn_minatar.py --method dense"
  [MinAtar/minatar_dense_mexp]="related/eaudeqn_minatar.py --method dense --mean-scaling-coefficient n"
  [MinAtar/minatar_nature]="related/nature_dqn_minatar.py"
  [MinAtar/minatar_nature_mexp]="related/nature_dqn_minatar.py --mean-scaling-coefficient n"
  [MinAtar/minatar_softq]="related/softq_minatar.py"
  [MinAtar/minatar_softq_mexp]="related/softq_minatar.py --mean-scaling-coefficient n"
  [MinAtar/minatar_munchausen]="related/softq_minatar.py --munchausen 0.9 --entropy-form entropy"
  [MinAtar/minatar_munchausen_mexp]="related/softq_minatar.py --munchausen 0.9 --entropy-form entropy --mean-scaling-coefficient n"
  [MinAtar/minatar_softq_online]="related/softq_online_minatar.py --method q"
  [MinAtar/minatar_softq_pg]="related/softq_online_minatar.py --method pg"
  [MinAtar/minatar_isdqn]="related/isdqn_minatar.py"
  [MinAtar/minatar_isdqn_mexp]="related/isdqn_minatar.py --mean-scaling-coefficient n"
  [MinAtar/minatar_isdqn1]="related/isdqn_minatar.py --num-iterations 1"
  [MinAtar/minatar_isdqn1_mexp]="related/isdqn_minatar.py --num-iterations 1 --mean-scaling-coefficient n"
  [MinAtar/minatar_targetfree]="related/isdqn_minatar.py --num-iterations 0"
  [MinAtar/minatar_targetfree_mexp]="related/isdqn_minatar.py --num-iterations 0 --mean-scaling-coefficient n"
  [MinAtar/minatar_targetbased]="related/isdqn_minatar.py --num-iterations 1 --target-network"
  [MinAtar/minatar_targetbased_mexp]="related/isdqn_minatar.py --num-iterations 1 --target-network --mean-scaling-coefficient n"
  [MinAtar/minatar_targetfree_noln]="related/isdqn_minatar.py --num-iterations 0 --no-layer-norm"
  [MinAtar/minatar_targetfree_noln_mexp]="related/isdqn_minatar.py --num-iterations 0 --no-layer-norm --mean-scaling-coefficient n"
  [Gym/lunarlander]="lunarlander_mexp.py"
)
# Of these --k makes sweeps; the first of each family is what it sweeps by default
sweeps=(
  ALE/dqn_mexp ALE/iqn_mexp ALE/nature ALE/softq ALE/munchausen ALE/isdqn ALE/isdqn1 ALE/targetfree ALE/targetbased
  ALE/targetfree_noln
  ALE/eaudeqn ALE/eaudeqn_w32 ALE/eaudeqn_w2048 ALE/polyprune ALE/dense
  MinAtar/minatar_mexp MinAtar/minatar_iqn MinAtar/minatar_nature MinAtar/minatar_softq MinAtar/minatar_munchausen
  MinAtar/minatar_eaudeqn MinAtar/minatar_eaudeqn_w32 MinAtar/minatar_eaudeqn_w512
  MinAtar/minatar_polyprune MinAtar/minatar_dense
  MinAtar/minatar_isdqn MinAtar/minatar_isdqn1 MinAtar/minatar_targetfree MinAtar/minatar_targetbased
  MinAtar/minatar_targetfree_noln
  Gym/lunarlander
)

# The agents of family `$1`, or of those that follow, such as MinAtar/minatar_mexp, the ones of family `$1`
agents_of() {
  local family=$1
  shift
  if [ $# -eq 0 ]; then
    set -- $(printf '%s\n' "${!agent_scripts[@]}" | sort)
  fi
  printf '%s\n' "$@" | sed -n "s|^$family/||p" | paste -sd,
}

# GAMES
minatar=Asterix,Breakout,Freeway,Seaquest,SpaceInvaders
atari5=BattleZone,DoubleDunk,NameThisGame,Phoenix,Qbert
ablation11=$atari5,Alien,Asterix,Seaquest,SpaceInvaders,WizardOfWor,Zaxxon
atari57=Alien,Amidar,Assault,Asterix,Asteroids,Atlantis,BankHeist,BattleZone,BeamRider,Berzerk,Bowling,Boxing,Breakout
atari57+=,Centipede,ChopperCommand,CrazyClimber,Defender,DemonAttack,DoubleDunk,Enduro,FishingDerby,Freeway,Frostbite
atari57+=,Gopher,Gravitar,Hero,IceHockey,Jamesbond,Kangaroo,Krull,KungFuMaster,MontezumaRevenge,MsPacman,NameThisGame
atari57+=,Phoenix,Pitfall,Pong,PrivateEye,Qbert,Riverraid,RoadRunner,Robotank,Seaquest,Skiing,Solaris,SpaceInvaders
atari57+=,StarGunner,Surround,Tennis,TimePilot,Tutankham,UpNDown,Venture,VideoPinball,WizardOfWor,YarsRevenge,Zaxxon

# The number of actions of game `$1`: the full set of Atari, the minimal sets of MinAtar
num_actions() {
  case $family/$1 in
    ALE/Skiing) echo 9 ;;
    ALE/*) echo 18 ;;
    MinAtar/Asterix) echo 5 ;;
    MinAtar/Breakout | MinAtar/Freeway) echo 3 ;;
    MinAtar/Seaquest) echo 6 ;;
    MinAtar/SpaceInvaders) echo 4 ;;
    Gym/LunarLander) echo 4 ;;
  esac
}

# RUN NUMBER `$2` OF THE LIST IN FOLDER `$1`: once more if it fails. xargs and Slurm call this; it never stops the others.
if [ "${1-}" = __run ]; then
  out=$2
  number=$3
  name=$(sed -n "$((number + 1))p" "$out/names.txt")
  command=$(sed -n "$((number + 1))p" "$out/commands.txt")
  [ -n "$command" ] || die "$out/commands.txt has no run $number"
  rm -f "$out/state/failed/$name"
  # tabular_mexp.py knows no --resume: it is skipped if this very command has made its figures before
  tabular_command=$out/tabular/command.txt
  if [ "$name" = tabular ]; then
    if [ "$command" = "$(cat "$tabular_command" 2>/dev/null)" ]; then
      touch "$out/state/done/$name"
      exit 0
    fi
    rm -f "$tabular_command"
  fi
  if [ -n "${BENCHMARK_GPUS-}" ]; then # each place among those that run at a time has its GPU
    IFS=, read -ra gpu_list <<<"$BENCHMARK_GPUS"
    export CUDA_VISIBLE_DEVICES=${gpu_list[BENCHMARK_SLOT % ${#gpu_list[@]}]}
  fi
  echo "$name" >"$out/state/running/$number"
  cd "$root" || exit 1
  for attempt in 1 2; do
    echo "[$(date '+%F %T')] attempt $attempt: $command" >>"$out/logs/$name.log"
    if bash -c "$command" >>"$out/logs/$name.log" 2>&1; then
      if [ "$name" = tabular ]; then
        echo "$command" >"$tabular_command"
      fi
      touch "$out/state/done/$name"
      break
    elif [ "$attempt" = 2 ]; then
      touch "$out/state/failed/$name"
    fi
  done
  rm -f "$out/state/running/$number"
  if [ ! -e "$out/state/done/$name" ]; then
    exit "${BENCHMARK_FAILURE:-1}"
  fi
  exit 0
fi

# THE END, of the runs in folder `$2` with the Python `$3`: the report, the runs that failed, and whether all is done
if [ "${1-}" = __finish ]; then
  out=$2
  python=$3
  status=0
  if ! "$python" "$root/report.py" "$out/runs" --out "$out/report"; then
    echo "no report was made; the runs are in $out/runs" >&2
  fi
  while read -r name; do
    if [ -e "$out/state/failed/$name" ]; then
      reason=$(tac "$out/logs/$name.log" | sed '/ attempt 2: /q' | grep -m 1 -E '^[[:alnum:]_.]*[Ee]rror(: |$)')
      echo "failed twice: $name, log $out/logs/$name.log${reason:+ ($reason)}" >&2
      status=1
    elif [ ! -e "$out/state/done/$name" ]; then
      echo "not finished: $name; the same command goes on with it" >&2
      status=1
    elif [ "$name" = tabular ]; then
      echo "$out/tabular: the gridworld's figures"
    fi
  done <"$out/names.txt"
  exit $status
fi

# ARGUMENTS
suite=${1-}
case $suite in
  -h | --help)
    usage
    exit 0
    ;;
  quick) family=MinAtar games=SpaceInvaders seeds=2 steps=200000 ;;
  minatar) family=MinAtar games=$minatar seeds=5 steps=5000000 ;;
  atari5) family=ALE games=$atari5 seeds=5 steps=50000000 ;;
  ablation11) family=ALE games=$ablation11 seeds=5 steps=50000000 ;;
  atari57) family=ALE games=$atari57 seeds=5 steps=50000000 ;;
  lunarlander) family=Gym games=LunarLander seeds=10 steps=100000 ;;
  *)
    usage >&2
    die "SUITE '$suite' must be quick, minatar, atari5, ablation11, atari57 or lunarlander"
    ;;
esac
shift
case $family in
  ALE) prefix=ALE/ version=v5 known_games=$atari57 agents=dqn,dqn_mexp,iqn,iqn_mexp k_list="" ;;
  MinAtar) prefix=MinAtar/ version=v1 known_games=$minatar agents=minatar_dqn,minatar_mexp k_list="" ;;
  Gym) prefix="" version=v3 known_games=LunarLander agents=lunarlander k_list=0,0.5,1,2,4,8,16,32 ;;
esac
agents_given=""
workers=""
gpus=""
out="benchmark/$suite"
slurm=""
use_slurm=""
dry_run=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --dry-run)
      dry_run=yes
      shift
      continue
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    --games | --agents | --k | --seeds | --steps | --workers | --gpus | --out | --slurm)
      [ $# -ge 2 ] || die "$1 needs a value"
      ;;
    *) die "unknown option '$1'; see bash benchmark.sh --help" ;;
  esac
  case $1 in
    --games) games=$2 ;;
    --agents) agents=$2 agents_given=yes ;;
    --k) k_list=$2 ;;
    --seeds) seeds=$2 ;;
    --steps) steps=$2 ;;
    --workers) workers=$2 ;;
    --gpus) gpus=$2 ;;
    --out) out=$2 ;;
    --slurm)
      slurm=$2
      use_slurm=yes
      ;;
  esac
  shift 2
done
if [ "${1-}" = -- ]; then
  shift
fi
extra=("$@")
for word in "${extra[@]}"; do
  flag=${word%%=*}
  case ${flag//_/-} in
    --env-id | --seed | --exp-name | --total-timesteps | --runs-dir | --mean-scaling-coefficient)
      die "'$word' after -- would be that of every run; see --games, --seeds, --agents, --steps, --out and --k"
      ;;
  esac
done
words=" ${extra[*]-} "
full_actions=yes
if [[ ${words//_/-} == *" --no-full-action-space "* ]]; then
  full_actions=""
fi

if [ -n "$k_list" ] && [ -z "$agents_given" ]; then
  agents=$(agents_of "$family" "${sweeps[@]}" | cut -d, -f1)
fi
one_k='([0-9]+(\.[0-9]+)?|([1-9][0-9]*)?n)'
[[ $k_list =~ ^($one_k(,$one_k)*)?$ ]] ||
  die "--k '$k_list' must be a list of numbers, at least 0, and n, 2n, 4n ..., such as 0,1,n,4n"
[[ ! $k_list =~ [0-9]n || -n $full_actions ]] ||
  die "--k '$k_list': multiples of n are those of the full action space, which --no-full-action-space makes smaller"
[[ $steps =~ ^[1-9][0-9]*$ ]] || die "--steps '$steps' must be a whole number, at least 1"
[[ $seeds =~ ^[0-9]+(,[0-9]+)*,?$ && ! $seeds =~ ^0+$ ]] || die "--seeds '$seeds' must be a number of seeds, or a list such as 1,2,3"
[[ $gpus =~ ^([0-9]+(,[0-9]+)*)?$ ]] || die "--gpus '$gpus' must be a list such as 0,1"
[ -z "$gpus" ] || [ -z "$use_slurm" ] || die "--gpus cannot be combined with --slurm: ask Slurm for a GPU a run, as with --slurm '--gpus=1'"
[ -n "$out" ] || die "--out '' names no folder; try --out benchmark/$suite"
IFS=, read -ra gpu_list <<<"$gpus"
IFS=, read -ra game_list <<<"$games"
IFS=, read -ra agent_list <<<"$agents"
IFS=, read -ra ks <<<"$k_list"
for i in "${!ks[@]}"; do
  if [[ ${ks[i]} != *n ]]; then
    ks[i]=$(LC_ALL=C printf '%.15g' "${ks[i]}") # 0.50 and 0.5 are one k
  fi
done
if [ "${#ks[@]}" -eq 0 ]; then
  ks=("") # no sweep: the agents' own k
fi
if [[ $seeds == *,* ]]; then
  IFS=, read -ra seed_list <<<"$seeds"
  for i in "${!seed_list[@]}"; do
    seed_list[i]=$((10#${seed_list[i]})) # 01 and 1 are one seed
  done
else
  readarray -t seed_list < <(seq "$seeds")
fi
if [ -z "$workers" ]; then
  if [ "${#gpu_list[@]}" -gt 0 ]; then
    workers=${#gpu_list[@]}
  else
    workers=$(nproc)
  fi
fi
[[ $workers =~ ^[1-9][0-9]*$ ]] || die "--workers '$workers' must be a whole number, at least 1"
[ "${#game_list[@]}" -gt 0 ] || die "--games names no game"
for game in "${game_list[@]}"; do
  [[ ,$known_games, == *,"$game",* ]] || die "--games '$games': '$game' is none of ${known_games//,/, }"
done
known_agents=$(agents_of "$family")
if [ -n "$k_list" ]; then # only those that have the layer
  known_agents=$(agents_of "$family" "${sweeps[@]}")
fi
[ "${#agent_list[@]}" -gt 0 ] || die "--agents names no agent"
for agent in "${agent_list[@]}"; do
  [[ ,$known_agents, == *,"$agent",* ]] || die "--agents '$agents': '$agent' is none of ${known_agents//,/, }${k_list:+, which are those that --k takes}"
done

# PYTHON: the active environment if it has what requirements.txt lists, or else .venv, made if need be
suitable() {
  "$1" - "$root/requirements.txt" >/dev/null 2>&1 <<'TEXT'
import importlib.metadata
import re
import sys

needed = open(sys.argv[1]).read().split("# testing")[0]
for line in needed.splitlines():
    name = re.match(r"[\w.-]+", line)
    if name:
        importlib.metadata.version(name[0])
TEXT
}
if [ -n "$dry_run" ] || suitable python; then
  python=$(command -v python || echo python)
  if [[ $python == */* && $python != /* ]]; then
    python=$PWD/$python # a relative entry of PATH; the runs are started in another folder
  fi
else
  python=$root/.venv/bin/python
  if ! suitable "$python"; then
    echo "making .venv from requirements.txt ..."
    python3 -m venv "$root/.venv" && "$python" -m pip install -q -r "$root/requirements.txt" ||
      die "no Python environment: installing requirements.txt into .venv failed (see above)"
  fi
fi

# THE LIST: one command a run
quote() {
  printf '%q' "$1"
}
out=$(realpath -m -- "$out") # one spelling of a folder: the name of Slurm's job is made of it
names=()
commands=()
if [ "$suite" = quick ]; then
  names+=(tabular)
  flags="--k 0 0.8 3.2 12.8 --seeds 16"
  commands+=("OMP_NUM_THREADS=1 $(quote "$python") $(quote "$root")/tabular_mexp.py $flags --out $(quote "$out/tabular")")
fi
for game in "${game_list[@]}"; do
  for seed in "${seed_list[@]}"; do
    for agent in "${agent_list[@]}"; do
      listed=","  # the k so far, as the list has them
      numbers="," # the same in numbers
      for k in "${ks[@]}"; do
        name=$agent
        flags=""
        if [ -n "$k" ]; then
          name+=_k$k
          number=$k
          if [[ $k == *n && -n $full_actions ]]; then
            multiple=${k%n}
            number=$((${multiple:-1} * $(num_actions "$game")))
          fi
          case $k in
            ?*n) flags=" --mean-scaling-coefficient $((${k%n} * $(num_actions "$game")))" ;;
            *) flags=" --mean-scaling-coefficient $k" ;; # the scripts know the n of their game
          esac
          if [[ $numbers == *,"$number",* && $listed != *,"$k",* ]]; then
            continue # such as n after 4, where the game has 4 actions
          fi
          listed+="$k,"
          numbers+="$number,"
        fi
        command="OMP_NUM_THREADS=1"
        command+=" $(quote "$python") $(quote "$root")/${agent_scripts[$family/$agent]}$flags"
        command+=" --env-id $prefix$game-$version --seed $seed --exp-name $name"
        command+=" --total-timesteps $steps --runs-dir $(quote "$out/runs") --resume"
        for word in "${extra[@]}"; do
          command+=" $(quote "$word")"
        done
        names+=("$game-$name-$seed")
        commands+=("$command")
      done
    done
  done
done
repeated=$(printf '%s\n' "${names[@]}" | sort | uniq -d | head -n 1)
[ -z "$repeated" ] || die "the lists name the run $repeated twice"
if [ -n "$dry_run" ]; then
  printf '%s\n' "${commands[@]}"
  exit 0
fi
mkdir -p "$out/runs" "$out/logs" || die "--out $out cannot be written to; name a folder that can"
exec 9>"$out/lock"
flock -n 9 || die "--out $out: another benchmark.sh, or a run that it left, is at work there"
job_name=mexp-$(cksum <<<"$out" | cut -d' ' -f1) # of the folder: nothing else may start there while Slurm is at work
queued=""
if [ -n "$use_slurm" ]; then
  command -v sbatch >/dev/null || die "--slurm needs Slurm's sbatch, which was not found"
  queued=$(squeue -h --name="$job_name" -o %A) || die "--slurm: squeue does not answer (see above)"
elif command -v squeue >/dev/null; then
  queued=$(squeue -h --name="$job_name" -o %A 2>/dev/null)
fi
[ -z "$queued" ] || die "--out $out: Slurm's job ${queued%%$'\n'*} is at work there; wait for its end, or scancel it"
mkdir -p "$out/state/done" "$out/state/failed" "$out/state/running"
rm -f "$out"/state/{done,failed,running}/*
printf '%s\n' "${names[@]}" >"$out/names.txt"
printf '%s\n' "${commands[@]}" >"$out/commands.txt"
total=${#names[@]}
finish=(bash "$root/benchmark.sh" __finish "$out" "$python")

# A CLUSTER: one array, requeued where a node was lost, and the report when it is through. A list that is longer than the
# cluster lets an array be (MaxArraySize, 1001 by default) goes as several arrays, one after the other
if [ -n "$use_slurm" ]; then
  read -ra options <<<"$slurm"
  run=$(printf '%q ' bash "$root/benchmark.sh" __run "$out")
  most=$(scontrol show config | sed -n 's/^MaxArraySize *= *//p')
  [[ $most =~ ^[1-9][0-9]*$ ]] || die "--slurm: scontrol does not tell the cluster's MaxArraySize (see above)"
  jobs=()
  refused() {
    if [ "${#jobs[@]}" -gt 0 ]; then
      scancel "${jobs[@]}"
    fi
    die "sbatch refused $1 (see above); nothing is submitted"
  }
  for ((first = 0; first < total; first += most)); do
    size=$((total - first))
    if [ "$size" -gt "$most" ]; then
      size=$most
    fi
    after=()
    if [ "$first" -gt 0 ]; then
      after=("--dependency=afterany:${jobs[-1]}")
    fi
    job=$(sbatch --parsable --requeue --open-mode=append --job-name="$job_name" --output="$out/logs/slurm-%A_%a.log" \
      "${options[@]}" "${after[@]}" --array="0-$((size - 1))%$workers" --wrap "$run \$((SLURM_ARRAY_TASK_ID + $first))") ||
      refused "the runs"
    jobs+=("${job%%;*}")
  done
  report=$(sbatch --parsable --job-name="mexp-report" --output="$out/logs/report.log" "${options[@]}" \
    --dependency="afterany$(printf ':%s' "${jobs[@]}")" --wrap "$(printf '%q ' "${finish[@]}")") || refused "the report"
  echo "submitted $total runs as job ${jobs[*]}, $workers at a time, and the report as job ${report%%;*}; logs in $out/logs"
  exit 0
fi

# ONE MACHINE. While the runs are at work nothing runs in the foreground but `wait`: bash may lose a Ctrl-C that comes
# while it waits for any other command
shopt -s nullglob
started=$SECONDS
group=""
count() {
  local files
  files=("$out/state/done"/*)
  n_done=${#files[@]}
  files=("$out/state/running"/*)
  n_running=${#files[@]}
  files=("$out/state/failed"/*)
  n_failed=${#files[@]}
}
show() {
  local took=$((SECONDS - started))
  printf '%s%d of %d runs done, %d running, %d failed, %d:%02d:%02d%s' "$1" "$n_done" "$total" "$n_running" "$n_failed" \
    $((took / 3600)) $((took % 3600 / 60)) $((took % 60)) "$2"
}
stop() {
  trap - INT TERM HUP EXIT
  if [ -z "$group" ]; then # the interrupt came between the start of the runs and `group=`
    group=$(jobs -p | head -n 1)
  fi
  kill -TERM -- "-$group" 2>/dev/null
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 -- "-$group" 2>/dev/null || break
    sleep 0.2
  done
  kill -KILL -- "-$group" 2>/dev/null
  echo
  echo "stopped; the same command goes on from the last checkpoints" >&2
  exit 130
}
numbers=$(seq 0 $((total - 1)))
trap stop INT TERM HUP
set -m # the runs get a process group of their own, which `stop` can end as a whole
BENCHMARK_FAILURE=0 BENCHMARK_GPUS=$gpus xargs --process-slot-var=BENCHMARK_SLOT -P "$workers" -n 1 bash "$root/benchmark.sh" __run "$out" <<<"$numbers" &
group=$!
set +m
last=""
start=""
end=$'\n'
if [ -t 1 ]; then # on a terminal the progress stays on one line
  start=$'\r'
  end="  "
fi
while kill -0 "$group" 2>/dev/null || kill -0 -- "-$group" 2>/dev/null; do
  count
  if [ -t 1 ] || [ "$last" != "$n_done/$n_failed" ]; then
    last=$n_done/$n_failed
    show "$start" "$end"
  fi
  sleep 1 9>&- & # without the lock, which would outlive us with it
  wait $!
done
count
show "$start" $'\n'
"${finish[@]}"
